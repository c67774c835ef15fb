import pytest
import torch

from fedcore.blocks import whole_block
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.merge import Update
from fedcore.methods.base import Server
from fedcore.methods.fedlama import FedLAMA
from fedcore.methods.fedlama_neurons import FedLAMANeurons
from fedcore.model import build_model
from scenarios.errors import InputError

torch.set_num_threads(1)


@pytest.mark.parametrize("encoder", ["mlp", "convnet", "vit", "resnet", "convkan"])
@pytest.mark.parametrize("method", [FedLAMA(), FedLAMANeurons(), FedLAMANeurons(neurons_per_group=3)])
def test_every_row_belongs_to_exactly_one_unit(encoder, method):
    model = build_model((1, 16, 16), encoder, "byol")
    count = {p.name: torch.zeros(p.shape[0]) for p in model.neuron_map.parameters}
    for unit in method.units(model.neuron_map):
        assert set(unit.measured) <= set(unit.rows)
        for name, rows in unit.rows.items():
            count[name][rows] += 1
    assert all((c == 1).all() for c in count.values())


def test_groups_are_adjacent_neurons_about_sqrt_n_of_them():
    model = build_model((1, 4, 4), "mlp", "simclr", {"widths": (10,)}, {"hidden": 16, "outputs": 5})
    units = FedLAMANeurons().units(model.neuron_map)
    assert [unit.rows["fc1.weight"].tolist() for unit in units if "fc1.weight" in unit.rows] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
    ]  # fmt: skip
    assert len([unit for unit in units if "projector.hidden.gain" in unit.rows]) == 4
    sixes = FedLAMANeurons(neurons_per_group=6).units(model.neuron_map)
    assert [len(unit.rows["fc1.bias"]) for unit in sixes if "fc1.bias" in unit.rows] == [6, 4]


def after_one_choice(method) -> tuple[Server, set, float]:
    """Two machines: half of fc1's neurons agree, its others lie far apart; fc2 and the projector's first layer nearly
    agree, its second lies in between. Per weight: 0 and 8, 0.1, 0.1, 3."""
    model = build_model((1, 4, 4), "mlp", "simclr", {"widths": (8, 8)}, {"hidden": 16, "outputs": 8})
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, ("a", "b"), (1, 1), 0, round_index=1, kept=[{}, {}])
    method.start(server)
    apart = {"fc1.weight": 8.0, "fc2.weight": 0.1, "projector.hidden.weight": 0.1, "projector.out.weight": 3.0}
    block = whole_block(model.neuron_map)
    results = []
    for sign in (-1.0, 1.0):
        trained = {n: t + sign * apart.get(n, 0.0) ** 0.5 for n, t in state.items()}
        trained["fc1.weight"][:4] = state["fc1.weight"][:4]
        results.append(LocalResult(trained, 0.0, 1, 1))
    tasks = [LocalTask(k, block, 1, (0,)) for k in range(2)]
    method.merge(server, tasks, results, [Update(str(k), block, r.trained, 1.0) for k, r in enumerate(results)])
    method.after_merge(server, 1)
    server.round_index += 1
    resting = [unit for unit, m in zip(server.memory["units"], server.memory["interval"], strict=True) if m == 2]
    left = sum(
        float((results[1].trained[n] - state[n])[unit.rows[n]].square().sum()) for unit in resting for n in unit.measured
    )
    return server, {n for unit in resting for n in unit.rows}, left


def test_half_a_layer_that_agrees_need_not_travel():
    layers, layers_rest, layers_left = after_one_choice(FedLAMA(warmup=0))
    neurons, _, neurons_left = after_one_choice(FedLAMANeurons(warmup=0))
    # Both leave the same apart until the next round, fc2 and the projector (half of what there is) ...
    assert layers_left == pytest.approx(neurons_left)
    assert layers_left == pytest.approx(0.1 * (64 + 128) + 3 * 128, rel=1e-5)
    assert "fc1.weight" not in layers_rest
    # ... but of fc1 only the neurons that disagree travel: rows of 16 weights, a gain and a bias.
    block = whole_block(layers.model.neuron_map)
    up = [m.cost(s, 0, block, 1, LocalRecipe()).upload_bytes for m, s in ((FedLAMA(), layers), (FedLAMANeurons(), neurons))]
    assert up == [4 * 8 * 18, 4 * 4 * 18]
    due = [unit for unit, m in zip(neurons.memory["units"], neurons.memory["interval"], strict=True) if m == 1]
    assert [(list(unit.rows), unit.rows["fc1.weight"].tolist()) for unit in due] == [
        (["fc1.weight", "fc1.gain", "fc1.bias"], [4, 5, 6, 7])
    ]


def test_a_group_of_none_is_refused():
    with pytest.raises(InputError, match="neurons_per_group is 0"):
        FedLAMANeurons(neurons_per_group=0)
