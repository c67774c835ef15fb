import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.allocation import allocate
from fedcore.blocks import Block, slice_weights, whole_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.merge import Update, merge
from fedcore.methods import METHODS, FedAvg, IntraLayer
from fedcore.model import build_model
from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.robust import MERGES, check_rule, median, norm_clipping, trimmed_mean
from fedcore.samples import Samples
from fedcore.slices import trained_slice
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

SMALL = NeuronMap(
    (Layer("a", 2), Layer("b", 3)),
    (Parameter("a.w", (2, 4), "a"), Parameter("a.bias", (2,), "a"), Parameter("b.w", (3, 2, 2), "b", "a")),
)
MODEL = build_model((1, 8, 8), "mlp", "simclr", {"widths": (6, 5)}, {"hidden": 7, "outputs": 4})


def small_state(fill: float = 0.0) -> dict[str, torch.Tensor]:
    return {p.name: torch.full(p.shape, fill) for p in SMALL.parameters}


def small_block(a: list[int], b: list[int], see_a: list[int], see_b: list[int]) -> Block:
    def index(x: list[int]) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.int64)

    return Block({"a": index(a), "b": index(b)}, {"a": index(see_a), "b": index(see_b)})


def constant(value: float, block: Block | None = None, weight: float = 1.0) -> Update:
    block = block or whole_block(SMALL)
    trained = {n: torch.full_like(t, value) for n, t in slice_weights(small_state(), SMALL, block).trained.items()}
    return Update("m", block, trained, weight)


def bias(rule, values: list[float], server_step: float = 1.0, start: float = 0.0) -> float:
    merged = rule(small_state(start), SMALL, [constant(v, weight=10.0**i) for i, v in enumerate(values)], server_step)
    assert all(float(t.min()) == float(t.max()) == float(merged["a.bias"][0]) for t in merged.values())
    return float(merged["a.bias"][0])


def test_median_by_hand():
    assert bias(median, [5.0, -1.0, 2.0]) == 2.0
    assert bias(median, [5.0, -1.0, 2.0, 3.0]) == 2.5
    assert bias(median, [7.0]) == 7.0
    assert bias(median, [5.0, -1.0, 2.0], 0.5, start=1.0) == 1.5


def test_a_fleet_that_is_too_small_for_a_rule_is_told():
    with pytest.raises(InputError, match=r"'trimmed-mean', which leaves out nobody of 4 machines; expected at least 5 of them"):
        check_rule("trimmed-mean", 4)
    with pytest.raises(InputError, match=r"'median', which leaves out nobody of 2 machines; expected at least 3 of them"):
        check_rule("median", 2)
    for rule, machines in (("trimmed-mean", 5), ("median", 3), ("norm-clipping", 1), ("mean", 1)):
        check_rule(rule, machines)


SIXTHS = build_model((1, 8, 8), "mlp", "simclr", {"widths": (12, 6)}, {"hidden": 12, "outputs": 6})


def protected(method, machines: int = 6) -> FederatedTraining:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (4, 1, 8, 8), generator=generator, dtype=torch.uint8) for _ in range(machines)]
    engine = InProcessEngine([Samples(x) for x in images], LocalRecipe(2, precision="fp32"))
    names = [str(k) for k in range(machines)]
    return FederatedTraining(SIXTHS, engine, names, lambda model, state: 1.0, None, method=method)


@pytest.mark.parametrize(
    ("rule", "share", "holders"),
    [
        ("trimmed-mean", 1 / 2, "3 machines hold"),
        ("trimmed-mean", 1 / 3, "2 machines hold"),
        ("median", 1 / 3, "2 machines hold"),
        ("median", 1 / 6, "one machine holds"),
    ],
)
def test_shares_whose_overlap_protects_nobody_are_refused(rule, share, holders):
    training = protected(IntraLayer(merge_rule=rule))
    start = dict(training.state)
    message = rf"^merge_rule is '{rule}', which leaves out nobody where {holders} a neuron; .* 'norm-clipping', or larger "
    for refused in (training.plan, lambda shares: training.play(shares, 1)):
        with pytest.raises(InputError, match=message):
            refused([share] * 6)
    assert training.round_index == 0
    assert all(torch.equal(training.state[name], value) for name, value in start.items())


@pytest.mark.parametrize(
    ("rule", "share"), [("median", 1 / 2), ("trimmed-mean", 5 / 6), ("norm-clipping", 1 / 6), ("mean", 1 / 6)]
)
def test_shares_whose_overlap_protects_are_played(rule, share):
    report = protected(IntraLayer(merge_rule=rule)).play([share] * 6, 1)
    assert all(report.came_back)
    assert report.unprotected == ""


def test_one_owner_per_neuron_leaves_no_robust_rule_but_clipping():
    with pytest.raises(InputError, match="leaves out nobody where one machine holds a neuron"):
        protected(METHODS["ist"](merge_rule="median"), 4).play([0.25] * 4, 1)
    assert all(protected(METHODS["ist"](merge_rule="norm-clipping"), 4).play([0.25] * 4, 1).came_back)


def test_blocks_that_are_lost_take_the_protection_away_and_the_report_says_so():
    training = protected(FedAvg(merge_rule="trimmed-mean"))
    assert training.play([1.0] * 6, 1, [True] * 5 + [False]).unprotected == ""
    report = training.play([1.0] * 6, 1, [True] * 4 + [False] * 2)
    assert sum(report.came_back) == 4
    assert "leaves out nobody where 4 machines hold a neuron; expected 5 of them everywhere" in report.unprotected
    assert training.play([1.0] * 6, 1, [False] * 6).unprotected == ""  # nothing was merged
    with pytest.raises(InputError, match="where 4 machines hold a neuron"):
        training.play([1.0] * 4 + [0.0] * 2, 1)


def test_trimmed_mean_by_hand():
    assert bias(trimmed_mean, [100.0, 1.0, 2.0, 6.0, -50.0]) == 3.0
    assert bias(trimmed_mean, [100.0, 1.0, 2.0, 5.0]) == 27.0  # floor(0.2 x 4) = 0: nobody is dropped
    assert bias(trimmed_mean, [float(v) for v in (*range(15), 900)]) == pytest.approx(np.mean(range(3, 13)))
    assert bias(trimmed_mean, [100.0, 1.0, 2.0, 6.0, -50.0], 0.5, start=1.0) == 2.0


def test_norm_clipping_by_hand():
    # Changes 1, 2 and 40 from 1.0: the median length is 2's, so 40 becomes 2; weights 1, 10 and 100 count.
    assert bias(norm_clipping, [2.0, 3.0, 41.0], start=1.0) == pytest.approx(1 + (1 + 20 + 200) / 111, rel=1e-6)
    assert bias(norm_clipping, [2.0, -1.0, 41.0], 0.5, 1.0) == pytest.approx(1 + (1 - 20 + 200) / 222, rel=1e-6)


def test_clipping_goes_by_the_length_per_entry_where_blocks_differ():
    narrow = constant(3.0, small_block([0], [], [], []))
    wide = constant(3.0)
    merged = norm_clipping(small_state(), SMALL, [narrow, wide, constant(0.3)])
    # All entries of both moved by 3: equal per entry, so nobody is clipped although the norms differ.
    assert merged["a.bias"].tolist() == pytest.approx([6.3 / 3, 3.3 / 2])


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "norm-clipping"])
def test_partial_blocks_count_entry_by_entry_and_what_nobody_trained_keeps_its_value(rule):
    one = constant(1.0, small_block([0], [2], [1], [0, 1]))
    two = constant(2.0, small_block([1], [0], [], []))
    merged = MERGES[rule](small_state(-1.0), SMALL, [one, two], 1.0)
    # Changes of length 2 and 3 per entry: clipping takes the second to 2.5.
    second = 1.5 if rule == "norm-clipping" else 2.0
    assert merged["a.w"].tolist() == [[1.0] * 4, [second] * 4]
    assert merged["a.bias"].tolist() == [1.0, second]
    assert merged["b.w"][:, :, 0].tolist() == [[-1.0, second], [-1.0, -1.0], [1.0, 1.0]]


def test_overlapping_entries_have_a_median_of_their_own():
    updates = [
        constant(1.0, small_block([0, 1], [0, 1, 2], [], [])),
        constant(4.0, small_block([1], [1], [], [])),
        constant(9.0, small_block([1], [], [0], [])),
    ]
    merged = median(small_state(-1.0), SMALL, updates)
    assert merged["a.bias"].tolist() == [1.0, 4.0]
    assert merged["b.w"][:, :, 0].tolist() == [[1.0, 1.0], [1.0, 2.5], [1.0, 1.0]]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(MERGES)),
    st.lists(st.floats(0.05, 1), min_size=1, max_size=7),
    st.floats(0, 1),
    st.sampled_from([0.5, 1.0, 1.3]),
    st.integers(0, 1000),
)
def test_identical_updates_give_the_mean_under_every_rule(rule, shares, context, server_step, seed):
    state, moved = (MODEL.init_state(torch.Generator().manual_seed(s)) for s in (seed, seed + 1))
    blocks = allocate(MODEL.neuron_map, shares, context, "random", 0, np.random.default_rng(seed))
    # On blocks of unlike entries the lengths per entry differ, so clipping is tested on whole models.
    held = [whole_block(MODEL.neuron_map) if rule == "norm-clipping" else b for b in blocks]
    updates = [
        Update(f"m{k}", b, trained_slice(moved, MODEL.neuron_map, b), 1.0 + k) for k, b in enumerate(held) if b is not None
    ]
    robust = MERGES[rule](state, MODEL.neuron_map, updates, server_step)
    for name, value in merge(state, MODEL.neuron_map, updates, server_step).items():
        torch.testing.assert_close(robust[name], value, rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["median", "trimmed-mean"]),
    st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.integers(0, 4),
)
def test_one_bad_machine_of_five_cannot_leave_the_honest_range(rule, honest, bad, place):
    values = [*honest[:place], bad, *honest[place:]]
    merged = MERGES[rule](small_state(), SMALL, [constant(v) for v in values], 1.0)
    for tensor in merged.values():
        assert min(honest) - 1e-5 <= float(tensor.min()) <= float(tensor.max()) <= max(honest) + 1e-5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), st.floats(-1e6, 1e6, width=32))
def test_one_bad_machine_of_five_moves_clipped_weights_by_no_more_than_the_longest_honest_change(honest, bad):
    updates = [constant(v) for v in (*honest, bad)]
    merged = norm_clipping(small_state(), SMALL, updates)
    assert float(merged["a.bias"].abs().max()) <= max(abs(v) for v in honest) + 1e-6


def gratings(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    period, angle, phase = (rng.uniform(low, high, (n, 1, 1)) for low, high in ((0.2, 2.2), (0, np.pi), (0, 6.28)))
    wave = np.sin(period * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return np.clip(128 + 40 * wave + 25 * rng.normal(size=wave.shape), 0, 255).astype(np.uint8)[..., None]


class Flipping(InProcessEngine):
    """The first machine sends its change backwards, several times as long."""

    def train(self, method, model, state, target, tasks):
        results = super().train(method, model, state, target, tasks)
        start = trained_slice(state, model.neuron_map, tasks[0].block)
        turned = {name: start[name] - 6 * (value - start[name]) for name, value in results[0].trained.items()}
        return [dataclasses.replace(results[0], trained=turned), *results[1:]]


def learned(rule: str) -> tuple[float, float]:
    model = build_model((1, 16, 16), "convnet", "simclr", {"widths": (8, 16, 24)}, {"hidden": 48, "outputs": 32})
    engine = Flipping([Samples(to_tensor(gratings(48, k))) for k in range(5)], LocalRecipe(24, precision="fp32"))
    probe = HeldOutInfoNCE(gratings(96, 9))
    training = FederatedTraining(model, engine, "abcde", probe, None, method=FedAvg(merge_rule=rule), seed=1)
    reports = [training.play([1.0] * 5, 4) for _ in range(8)]
    assert not any(report.refused for report in reports)
    return training.untrained, float(np.mean([report.infonce for report in reports[-2:]]))


def test_a_machine_that_turns_its_updates_round_stops_the_mean_but_not_the_robust_rules():
    untrained, mean = learned("mean")
    assert mean > untrained - 0.02
    for rule in ("median", "trimmed-mean"):
        _, robust = learned(rule)
        assert robust < untrained - 0.1, rule


def test_rules_are_chosen_by_name():
    assert sorted(MERGES) == ["mean", "median", "norm-clipping", "trimmed-mean"]
    with pytest.raises(InputError, match=r"^merge_rule is 'krum', expected one of mean, median, norm-clipping, trimmed-mean$"):
        IntraLayer(merge_rule="krum")
