import pytest
import torch

from fedcore.blocks import freeze, slice_weights, whole_block, whole_weights
from fedcore.model import Model, build_model
from fedcore.neurons import State
from fedcore.objectives import BYOL, OBJECTIVES
from fedcore.samples import Batch

torch.set_num_threads(1)


def head(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    h = x @ state[f"{name}.hidden.weight"].T
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    h = h * state[f"{name}.hidden.gain"] + state[f"{name}.hidden.bias"]
    return h.relu() @ state[f"{name}.out.weight"].T


def setting() -> tuple[Model, State, State, torch.Tensor, torch.Tensor]:
    model = build_model((1, 4, 4), "mlp", "byol", {"widths": (9, 6)}, {"hidden": 40, "outputs": 5})
    generator = torch.Generator().manual_seed(0)
    state, target = model.init_state(generator), model.init_state(generator)
    target = {name: target[name] for name in model.target_parameters}
    one, two = torch.randn(2, 7, 1, 4, 4, generator=generator)
    return model, state, target, one, two


def test_the_loss_is_the_symmetric_squared_distance_by_hand():
    model, state, target, one, two = setting()
    views = torch.cat([one, two])
    q = head(state, "predictor", head(state, "projector", model.encoder.features(whole_weights(state), views)))
    z = head(target, "projector", model.encoder.features(whole_weights(target), views))
    q, z = q / q.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True)
    first = ((q[:7] - z[7:]) ** 2).sum(1).mean()
    second = ((q[7:] - z[:7]) ** 2).sum(1).mean()
    loss = model.objective.loss(model.encoder.features, whole_weights(state), whole_weights(target), Batch((one, two)))
    assert float(loss) == pytest.approx(float(first + second), rel=1e-5)
    assert 0 < float(loss) < 8


def test_a_prediction_that_hits_the_target_costs_nothing():
    model, state, target, one, _ = setting()
    views = torch.cat([one, one])
    z = head(target, "projector", model.encoder.features(whole_weights(target), views))

    # Alike views whose prediction is the target's projection: online = target, predictor solved to be the identity.
    online = dict(state) | dict(target)
    h = head(online, "projector", model.encoder.features(whole_weights(online), views)) @ (
        online["predictor.hidden.weight"].T
    )
    h = ((h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()).relu()
    # In double precision and by singular values: how exact single precision is hangs on what ran before.
    solved = torch.linalg.lstsq(h[:7].double(), z[:7].double(), driver="gelsd").solution
    online["predictor.out.weight"] = solved.T.float().contiguous()
    loss = model.objective.loss(model.encoder.features, whole_weights(online), whole_weights(target), Batch((one, one)))
    assert float(loss) == pytest.approx(0.0, abs=1e-4)


def test_nothing_flows_into_the_target():
    model, state, target, one, two = setting()
    block = whole_block(model.neuron_map)
    weights = slice_weights(state, model.neuron_map, block)
    aim = slice_weights(target, model.neuron_map, block)
    model.objective.loss(model.encoder.features, weights, freeze(aim), Batch((one, two))).backward()
    assert all(t.grad is None for t in aim.trained.values())
    assert all(t.grad is not None for t in weights.trained.values())


def test_the_target_has_everything_but_the_predictor():
    model = build_model((1, 4, 4), "mlp", "byol", {"widths": (9, 6)})
    assert OBJECTIVES["byol"] is BYOL
    names = {p.name for p in model.neuron_map.parameters}
    assert names - model.target_parameters == {n for n in names if n.startswith("predictor.")}
    assert len(names - model.target_parameters) == 4
    assert {"fc1.weight", "projector.out.weight"} <= model.target_parameters


def test_it_does_not_run_without_a_target():
    model, state, _, one, two = setting()
    with pytest.raises(ValueError, match="momentum target"):
        model.objective.loss(model.encoder.features, whole_weights(state), None, Batch((one, two)))
