import numpy as np
import pytest
import torch

from fedcore.allocation import allocate
from fedcore.blocks import freeze, slice_weights, whole_block
from fedcore.model import build_model
from fedcore.slices import entries, own_or, trained_slice, untrained, write_trained, write_visible

torch.set_num_threads(1)

MODEL = build_model((1, 8, 8), "convnet", "byol", {"widths": (5, 7), "strides": (2, 1)}, {"hidden": 9, "outputs": 4})
STATE = MODEL.init_state(torch.Generator().manual_seed(0))
ALL = {p.name for p in MODEL.neuron_map.parameters}


def block(share: float, context: float, seed: int = 0):
    return allocate(MODEL.neuron_map, [share], context, "random", 0, np.random.default_rng(seed))[0]


@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.4, 1.0), (0.4, 0.5), (0.3, 0.0)])
def test_what_is_cut_out_is_what_training_gets_and_goes_back_where_it_was(share, context):
    held = block(share, context)
    cut = trained_slice(STATE, MODEL.neuron_map, held)
    weights = slice_weights(STATE, MODEL.neuron_map, held)
    assert set(cut) == set(weights.trained)
    assert all(torch.equal(value, weights.trained[name].detach()) for name, value in cut.items())
    assert entries(MODEL.neuron_map, held) == sum(value.numel() for value in cut.values())
    marked = write_trained(untrained(STATE, ALL), MODEL.neuron_map, held, cut)
    assert sum(int(value.isfinite().sum()) for value in marked.values()) == entries(MODEL.neuron_map, held)
    assert all(torch.equal(value, STATE[name]) for name, value in own_or(marked, STATE).items())
    doubled = write_trained(STATE, MODEL.neuron_map, held, {name: 2 * value for name, value in cut.items()})
    for name in ALL:
        expected = torch.where(marked[name].isnan(), STATE[name], 2 * STATE[name])
        assert torch.equal(doubled[name], expected)


@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.4, 1.0), (0.4, 0.5), (0.3, 0.0)])
def test_a_target_cut_out_and_moved_goes_back_where_it_was(share, context):
    held = block(share, context, 3)
    target = {name: STATE[name] for name in MODEL.target_parameters}
    seen = freeze(slice_weights(target, MODEL.neuron_map, held)).frozen
    back = write_visible(target, MODEL.neuron_map, held, seen)
    assert all(torch.equal(value, target[name]) for name, value in back.items())
    marked = write_visible(untrained(STATE, MODEL.target_parameters), MODEL.neuron_map, held, seen)
    count = sum(int(value.isfinite().sum()) for value in marked.values())
    assert count == entries(MODEL.neuron_map, held, MODEL.target_parameters, visible=True)
    assert all(torch.equal(value, target[name]) for name, value in own_or(marked, target).items())


def test_nothing_is_changed_in_place_and_unknown_names_are_passed_over():
    held = whole_block(MODEL.neuron_map)
    few = {"conv1.weight": STATE["conv1.weight"].clone(), "centre": torch.ones(3)}
    written = write_trained(few, MODEL.neuron_map, held, {name: torch.zeros_like(v) for name, v in STATE.items()})
    assert set(written) == set(few)
    assert torch.equal(few["conv1.weight"], STATE["conv1.weight"])
    assert not written["conv1.weight"].any()
    assert torch.equal(written["centre"], torch.ones(3))
    assert set(trained_slice(few, MODEL.neuron_map, held)) == {"conv1.weight"}
