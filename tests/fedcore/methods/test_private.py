import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from fedcore.blocks import whole_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.merge import Update
from fedcore.methods.private import SECRET, Private, clipped, noise_key, normal_draws, private_merge, spent_epsilon
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.slices import trained_slice
from fedcore.training import FederatedTraining
from fedcore.workload import method_of
from scenarios.errors import InputError
from scenarios.schema import Workload

torch.set_num_threads(1)
RECIPE = LocalRecipe(batch_size=6, precision="fp32")


def small_model(objective: str = "simclr"):
    return build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})


def federation(method, seed: int = 4) -> FederatedTraining:
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in (18, 12, 9)]
    return FederatedTraining(
        small_model(), InProcessEngine(samples, RECIPE), "abc", lambda model, state: 1.0, None, method=method, seed=seed
    )


def updates_of(changes: list[float]):
    """Whole updates that change every entry by so much, and the state that they start from."""
    model = small_model()
    state = model.init_state(torch.Generator().manual_seed(1))
    block = whole_block(model.neuron_map)
    start = trained_slice(state, model.neuron_map, block)
    made = [
        Update(f"m{i}", block, {name: old + change for name, old in start.items()}, weight=10.0**i)
        for i, change in enumerate(changes)
    ]
    return state, model.neuron_map, made


def size(change) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in change.values()))


@settings(deadline=None, max_examples=30)
@given(change=st.floats(-10, 10), bound=st.floats(1e-3, 100))
def test_a_clipped_change_keeps_its_direction_and_never_exceeds_the_bound(change, bound):
    state, neuron_map, (update,) = updates_of([change])
    full, short = clipped(state, neuron_map, update, 1e9), clipped(state, neuron_map, update, bound)
    assert size(short) <= bound
    assert size(short) == pytest.approx(min(bound, size(full)), rel=1e-6)
    if size(full) > 0:
        inner = sum(float((full[name] * short[name]).sum()) for name in full)
        assert inner == pytest.approx(size(full) * size(short), rel=1e-6)


def test_without_noise_and_within_the_bound_it_is_the_plain_mean_of_the_changes():
    state, neuron_map, made = updates_of([0.01, 0.03])
    merged = private_merge(state, neuron_map, made, 0.5, 1e6, 0.0, bytes(32))
    for name, old in state.items():
        torch.testing.assert_close(merged[name], old + 0.5 * 0.02)


def test_noise_is_normal_and_follows_from_key_and_name_alone():
    draws = normal_draws(bytes(32), "w", (300, 100))
    assert torch.equal(draws, normal_draws(bytes(32), "w", (300, 100)))
    for key, name in ((bytes(31) + b"\1", "w"), (bytes(32), "v")):
        both = torch.stack([draws.flatten(), normal_draws(key, name, (300, 100)).flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.03
    assert kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.isfinite(draws).all()


def test_a_round_played_again_has_its_noise_again_and_with_other_updates_another():
    _, _, made = updates_of([0.01, 0.03])
    key = noise_key(b"s" * 32, 4, made)
    assert noise_key(b"s" * 32, 4, made) == key
    assert len({key, noise_key(b"t" * 32, 4, made), noise_key(b"s" * 32, 5, made), noise_key(b"s" * 32, 4, made[:1])}) == 4


def test_simulated_noise_follows_from_the_seed_and_real_noise_does_not():
    one, two = federation(Private()), federation(Private())
    assert one.server.memory[SECRET] == two.server.memory[SECRET]
    one.engine.secret = b"x" * 32  # as `RemoteEngine` has
    real = FederatedTraining(one.model, one.engine, "abc", lambda model, state: 1.0, None, method=Private(), seed=4)
    assert bytes(real.server.memory[SECRET]) == b"x" * 32


def test_every_round_has_noise_of_its_own():
    training = federation(Private(clip_norm=1e-9, noise_multiplier=1e9))  # what is learned is next to nothing beside the noise
    states = [dict(training.state)]
    for _ in range(2):
        training.play([1.0, 1.0, 1.0], 1)
        states.append(dict(training.state))
    first, second = (torch.cat([(b[n] - a[n]).flatten() for n in a]) for a, b in pairwise(states))
    together = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(together) < 0.2
    assert float(second.std() / first.std()) == pytest.approx(1.0, abs=0.2)


def test_one_machine_moves_the_sum_by_no_more_than_the_bound_whatever_it_sends():
    state, neuron_map, made = updates_of([0.01, 1e6])
    with_it = private_merge(state, neuron_map, made, 1.0, 0.25, 0.0, bytes(32))
    # The same blocks, and nothing learned.
    idle = [made[0], dataclasses.replace(made[1], trained=trained_slice(state, neuron_map, made[1].block))]
    without = private_merge(state, neuron_map, idle, 1.0, 0.25, 0.0, bytes(32))
    assert 2 * size({name: with_it[name] - without[name] for name in with_it}) == pytest.approx(0.25, rel=1e-4)


def test_noise_has_the_promised_spread_and_entries_that_nobody_trained_stay():
    training = federation(Private(clip_norm=2.0, noise_multiplier=3.0))
    state, neuron_map = training.state, training.model.neuron_map
    training.method.begin_round(training.server)
    block = next(b for b in training.plan([0.5, 0.0, 0.0]) if b is not None)
    still = Update("a", block, trained_slice(state, neuron_map, block), 1.0)
    merged = private_merge(state, neuron_map, [still], 1.0, 2.0, 3.0, bytes(32))
    moved = torch.cat([(merged[name] - state[name]).flatten() for name in merged])
    touched = moved[moved != 0]
    trained = sum(value.numel() for value in still.trained.values())
    assert len(touched) == trained < len(moved)
    assert float(touched.std()) == pytest.approx(6.0, rel=0.1)
    assert abs(float(touched.mean())) < 1.0


def test_spent_epsilon_satisfies_the_exact_condition_of_the_gaussian_mechanism():
    # Balle and Wang 2018, theorem 8, with sensitivity 1 and sigma = z / sqrt(rounds).
    for rounds, multiplier, delta in ((1, 1.0, 1e-5), (36, 4.0, 1e-5), (9, 0.8, 1e-3)):
        epsilon, sigma = spent_epsilon(rounds, multiplier, delta), multiplier / math.sqrt(rounds)
        got = norm.cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)
        assert got == pytest.approx(delta, rel=1e-3)
    assert spent_epsilon(0, 1.0, 1e-5) == 0.0
    assert spent_epsilon(3, 0.0, 1e-5) == float("inf")


def test_training_counts_rounds_by_machine_and_is_reproducible():
    method = Private(clip_norm=0.5, noise_multiplier=0.5)
    one, two, other = federation(method), federation(method), federation(method, seed=5)
    for training in (one, two, other):
        training.play([1.0, 0.5, 0.0], 2)
        training.play([1.0, 0.0, 0.0], 2)
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())
    assert one.server.memory["private_rounds"] == [2, 1, 0]
    assert method.epsilon(one.server) == spent_epsilon(2, 0.5, 1e-5)


def test_it_still_learns_with_a_little_noise():
    probe_free = federation(Private(clip_norm=5.0, noise_multiplier=0.001))
    losses = [np.nanmean(probe_free.play([1.0, 1.0, 1.0], 5).losses) for _ in range(12)]
    assert np.mean(losses[-3:]) < losses[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier is nan"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"merge_rule": "median"}, "merge_rule is 'median'"),
    ],
)
def test_bad_numbers_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        Private(**options)


def test_what_would_leave_without_noise_is_refused():
    with pytest.raises(InputError, match="without noise"):
        Private(context=0.5, context_rule="compensated").check(small_model(), RECIPE)
    dino = build_model((1, 8, 8), "mlp", "dino", {"widths": (12, 6)}, {})
    with pytest.raises(InputError, match="without noise"):
        Private().check(dino, RECIPE)


def test_a_scenario_asks_for_it_by_its_workload():
    method = method_of(Workload.model_validate({"privacy": {"clip_norm": 0.3, "noise_multiplier": 2.0}}))
    assert method == Private(0.7, clip_norm=0.3, noise_multiplier=2.0)
    assert type(method_of(Workload())).name == "intralayer"
