import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.blocks import whole_block
from fedcore.engines import InProcessEngine
from fedcore.engines.inprocess import train_task
from fedcore.local import LocalRecipe, LocalTask
from fedcore.methods.fedavg import FedAvg
from fedcore.methods.prog_fedssl import ProgFedSSL
from fedcore.model import Model, build_model
from fedcore.probes import HeldOutInfoNCE
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=6, precision="fp32")
MOVING = LocalRecipe(batch_size=6, precision="fp32", moving_target=True)
ENCODERS = {"convnet": {"widths": (6, 8, 8)}, "vit": {"dim": 8, "depth": 3, "heads": 2}}


def blobs() -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    small = [torch.rand(n, 1, 3, 3, generator=generator) for n in (9, 10, 7)]
    return [Samples((255 * F.interpolate(x, (12, 12), mode="bilinear")).to(torch.uint8)) for x in small]


def model_of(encoder="convnet", objective="simclr") -> Model:
    return build_model((1, 12, 12), encoder, objective, ENCODERS[encoder], {"hidden": 12, "outputs": 6})


def federation(method, encoder="convnet", objective="simclr", probe=lambda model, state: 1.0) -> FederatedTraining:
    engine = InProcessEngine(blobs(), RECIPE)
    return FederatedTraining(model_of(encoder, objective), engine, "abc", probe, None, method=method, seed=4)


def plain_round(training, steps):
    """FedAvg on whatever the model is now, the target starting as a copy of the online weights and following them."""
    model, r = training.model, training.round_index
    state = training.state
    target = None if training.target is None else {n: state[n].clone() for n in training.target}
    locals_ = []
    for k, own in enumerate(training.engine.samples):
        task = LocalTask(k, whole_block(model.neuron_map), steps, (4, 2, r, k), steps_before=r * steps)
        locals_.append(train_task(FedAvg(), model, state, target, task, own, MOVING).trained)
    n = [float(len(own) * steps) for own in training.engine.samples]
    return {
        name: (sum(t[name].double() * w for t, w in zip(locals_, n, strict=True)) / sum(n)).float() for name in locals_[0]
    }


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_every_round_is_fedavg_on_what_is_there_bit_for_bit(encoder, objective):
    training = federation(ProgFedSSL(rounds_per_stage=2), encoder, objective)
    first = dict(training.state)
    depths = []
    for _ in range(7):
        training.method.begin_round(training.server)
        depths.append(len(training.model.encoder.stages))
        expected = plain_round(training, 2)
        before = dict(training.state)
        assert not training.play([1, 1, 1], 2).refused
        assert {p.name for p in training.model.neuron_map.parameters} == set(expected)
        for name, value in training.state.items():
            assert torch.equal(value, expected.get(name, before[name])), name
            if name not in expected:
                assert torch.equal(value, first[name])
        if objective == "byol":
            assert set(training.target) == training.model.target_parameters
            assert all(torch.equal(value, training.state[name]) for name, value in training.target.items())
    assert depths == [1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(("encoder", "kept"), [("vit", True), ("convnet", False)])
def test_heads_are_kept_where_all_of_them_fit_and_drawn_anew_otherwise(encoder, kept):
    training = federation(ProgFedSSL(rounds_per_stage=1), encoder, "byol")
    training.play([1, 1, 1], 2)
    before = dict(training.state)
    training.method.begin_round(training.server)
    assert len(training.model.encoder.stages) == 2
    for p in training.model.objective.heads.parameters:
        if len(p.shape) > 1 or p.name.endswith("gain"):
            assert torch.equal(training.state[p.name], before[p.name]) == kept
    again = federation(ProgFedSSL(rounds_per_stage=1), encoder, "byol")
    again.play([0, 0, 0], 2)
    again.method.begin_round(again.server)
    if not kept:
        assert torch.equal(again.state["predictor.out.weight"], training.state["predictor.out.weight"])


def test_bytes_grow_with_the_model_and_the_target_never_travels():
    training = federation(ProgFedSSL(rounds_per_stage=1), objective="byol")
    seen = []
    for _ in range(3):
        training.method.begin_round(training.server)
        block = whole_block(training.model.neuron_map)
        cost = training.method.cost(training.server, 0, block, 2, RECIPE)
        whole = FedAvg().cost(training.server, 0, block, 2, RECIPE)
        weights = sum(training.state[p.name].nbytes for p in training.model.neuron_map.parameters)
        assert cost.upload_bytes == cost.download_bytes == weights
        assert whole.download_bytes > weights
        assert (cost.step_flops, cost.memory_bytes) == (whole.step_flops, whole.memory_bytes)
        seen.append(weights)
        training.play([1, 1, 1], 1)
    assert seen == sorted(set(seen))


def test_the_probe_and_the_guard_follow_the_growing_model():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 12, 12, 1), dtype=np.uint8)
    training = federation(ProgFedSSL(rounds_per_stage=1), probe=HeldOutInfoNCE(images))
    training.guard_images = images
    for _ in range(3):
        report = training.play([1, 1, 1], 1)
        assert report.infonce == training.probe(training.model, training.state)
        assert np.isfinite(report.effective_rank)
    assert len(training.model.encoder.stages) == 3


def test_it_learns_in_every_stage():
    training = federation(ProgFedSSL(rounds_per_stage=7))
    losses = [training.play([1, 1, 1], 6).losses.mean() for _ in range(21)]
    for stage in range(3):
        assert losses[7 * stage + 6] < 0.85 * losses[7 * stage]


def test_what_cannot_grow_is_refused():
    with pytest.raises(InputError, match="rounds_per_stage is 0"):
        ProgFedSSL(rounds_per_stage=0)
    model = model_of()
    with pytest.raises(InputError, match="build_model"):
        ProgFedSSL().check(Model(model.encoder, model.objective), RECIPE)
