"""Rewards: sums are scores, formulas by hand, and what is degenerate loses to what is sound."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.menu import LEVELS, PATTERNS, menu_actions
from envs.rewards import REWARDS, Ledger, Transition
from envs.rewards.lagrangian import PRICE
from envs.scoring import log_efficiency
from envs.spaces import encode
from envs.vector import OrchestrationVectorEnv
from fedcore.costs import GRID
from scenarios import names, random_scenario

Floats = NDArray[np.float64]
Policy = Callable[[OrchestrationVectorEnv, np.random.Generator], NDArray[np.float32]]


def scores(env: OrchestrationVectorEnv, policy: Policy, seed: int = 0) -> tuple[Floats, Floats]:
    """Log-efficiency and sum of rewards of one episode in every environment of the batch."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    n = env.num_envs
    score, total, over = np.full(n, np.nan), np.zeros(n), np.zeros(n, dtype=bool)
    for _ in range(2000):
        _, rewards, ended, _, info = env.step(policy(env, rng))
        total += np.where(over, 0.0, rewards)
        new = ended & ~over
        if new.any():
            score[new] = info["log_efficiency"][new]
        over |= ended
        if over.all():
            return score, total
    raise AssertionError("an episode did not end")


def constant(share: float, level: int, levels: int = 5) -> Policy:
    action = encode(np.full(16, share), level, levels, 16)
    return lambda env, rng: np.tile(action, (env.num_envs, 1))


def reference(env: OrchestrationVectorEnv, rng: np.random.Generator) -> NDArray[np.float32]:
    """Each scenario's own reference: its share and sync interval, no more than memory allows."""
    actions = []
    for b in range(env.num_envs):
        scenario = env.core.world(b).scenario
        intervals = scenario.decision.sync_intervals
        shares = np.minimum(scenario.reference.share, env.core.world(b).max_share_index / GRID)
        actions.append(encode(shares, intervals.index(scenario.reference.sync_interval), len(intervals), 16))
    return np.stack(actions)


def random(env: OrchestrationVectorEnv, rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.uniform(-1, 1, (env.num_envs, 17)).astype(np.float32)


def whimsical(env: OrchestrationVectorEnv, rng: np.random.Generator) -> NDArray[np.float32]:
    """Nobody in half of the rounds, tiny or whole shares in the others."""
    actions = np.where(rng.random((env.num_envs, 17)) < 0.5, -0.9, 1.0).astype(np.float32)
    actions[rng.random(env.num_envs) < 0.5, :-1] = -1.0
    return actions


@pytest.mark.parametrize("policy", [random, whimsical, reference, constant(0.05, 0), constant(1.0, 4)])
def test_efficiency_rewards_sum_to_the_score(policy: Policy, calibrated: Any) -> None:
    many = [calibrated(name) for name in names()]
    many += [calibrated(random_scenario(np.random.default_rng(i))) for i in range(4)]
    many += [calibrated("phones", budgets={"rounds": 3}), calibrated("farm-lte", reward={"energy_weight": 0.0})]
    score, total = scores(OrchestrationVectorEnv(24, many), policy)
    assert total == pytest.approx(score, abs=1e-9)
    assert np.std(score) > 0.01


@pytest.mark.parametrize("name", names())
def test_the_reference_policy_scores_one(name: str, calibrated: Any) -> None:
    score, _ = scores(OrchestrationVectorEnv(500, calibrated(name)), reference)
    # The reference itself is a mean over 128 episodes: that is the larger error.
    error = score.std() * np.sqrt(1 / 500 + 1 / 128)
    assert error < 0.06
    assert abs(score.mean()) < 0.02 + 2.5 * error


@pytest.mark.parametrize("name", names())
def test_degenerate_policies_lose_to_the_reference(name: str, calibrated: Any) -> None:
    env = OrchestrationVectorEnv(400, calibrated(name))
    sound = scores(env, reference)[0].mean()
    nobody: Policy = constant(0.0, 2)
    tiny: Policy = constant(0.05, 0)
    for degenerate, margin in ((nobody, 2.0), (tiny, 0.5)):
        score, total = scores(env, degenerate)
        assert score.mean() < sound - margin
        assert total.mean() < sound - margin
    # Random decisions are not absurd (long intervals, somebody always rests), only worse than balanced ones.
    balanced = list(PATTERNS).index("balanced-half") * LEVELS + 3

    def sensible(env: OrchestrationVectorEnv, rng: np.random.Generator) -> np.ndarray:
        return menu_actions(np.full(env.num_envs, balanced), env.core.observe())

    score, total = scores(env, random)
    better = scores(env, sensible)[0].mean()
    assert score.mean() < better
    assert total.mean() < better


def test_one_cheap_round_and_then_sitting_out_does_not_pay(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(16, calibrated("farm-lte"))
    first = constant(0.1, 0)(env, np.random.default_rng())
    rest = constant(0.0, 0)(env, np.random.default_rng())

    def quitter(env: OrchestrationVectorEnv, rng: np.random.Generator) -> NDArray[np.float32]:
        return np.where(env.core.round[:, None] == 0, first, rest)

    assert scores(env, quitter)[1].mean() < scores(env, reference)[1].mean() - 1.0


def ledger(progress: float, work: float, time: float, energy: float, moved: float) -> Ledger:
    return Ledger(*(np.array([x]) for x in (progress, work, time, energy, moved)))


def paid(
    kind: str, before: Ledger, after: Ledger, ended: bool = False, score: float = 0.0, earned: float = 0.0
) -> float:
    weight = np.array([0.25])
    transition = Transition(before, after, weight, np.array([ended]), np.array([score], dtype=float), np.array([earned]))
    return float(REWARDS[kind](transition)[0])


BEFORE, AFTER = ledger(0.5, 0.3, 0.4, 0.3, 0.5), ledger(0.6, 0.4, 0.6, 0.7, 0.6)
# dC = 0.25 x 0.4 + 0.75 x 0.1 = 0.175; C goes from 0.45 to 0.625.


def test_ratio_by_hand() -> None:
    speed, cost = 0.1 / 0.2, 0.175 / 0.1
    assert paid("ratio", BEFORE, AFTER) == pytest.approx(0.1 * np.log2(1 + speed / cost))
    assert paid("ratio", BEFORE, BEFORE) == 0.0
    start, reference_round = ledger(0, 0, 0, 0, 0), ledger(0.05, 0.05, 0.05, 0.05, 0.05)
    assert paid("ratio", start, reference_round) == pytest.approx(0.05)


def test_a_miss_takes_back_what_ratio_has_paid() -> None:
    # Budgets of twice the reference's time and three times its cost: 0.6 of the way counts as one round to there, all spent.
    score = np.log(0.6 / (2.0 * 3.0))
    assert paid("ratio", BEFORE, AFTER, True, score, 4.0) == pytest.approx(0.6 * np.log2(1 + (0.6 / 2.0) / (3.0 / 0.6)) - 4.0)
    reached = ledger(1.0, 1.0, 0.9, 0.3, 0.5)
    assert paid("ratio", BEFORE, reached, True, 0.0, 4.0) == paid("ratio", BEFORE, reached)


def test_a_missed_episodes_ratio_says_how_far_it_came(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(32, calibrated("farm-lte", budgets={"rounds": 2}), "ratio")
    score, total = scores(env, constant(1.0, 0))
    p = np.exp(score + np.log(env.core.budgets[:, 0] / env.core.reference[:, 0]))
    w, scaled = env.core.energy_weight, env.core.budgets[:, :3] / env.core.reference[:, :3]
    p *= w * scaled[:, 1] + (1 - w) * scaled[:, 2]
    assert (p > 1e-3).all()
    assert total == pytest.approx(p * np.log2(1 + p * np.exp(score)))
    env.reset(seed=1)
    assert (env.core.earned == 0).all()


def test_halving_a_round_leaves_the_ratios_return_as_it_is() -> None:
    start, half, whole = ledger(0, 0, 0, 0, 0), ledger(0.1, 0.5, 0.2, 0.06, 0.04), ledger(0.2, 1.0, 0.4, 0.12, 0.08)
    assert paid("ratio", start, half) + paid("ratio", half, whole) == pytest.approx(paid("ratio", start, whole))


def test_progress_that_is_lost_is_paid_back() -> None:
    start, lost = ledger(0.3, 0, 0, 0, 0), ledger(0.2, 0.1, 0.1, 0.1, 0.1)
    assert paid("ratio", start, lost) < 0


def test_lagrangian_by_hand() -> None:
    assert paid("lagrangian", BEFORE, AFTER) == pytest.approx(0.1 - PRICE * (0.2 + 0.175))
    whole = paid("lagrangian", ledger(0, 0, 0, 0, 0), ledger(1, 1, 1, 1, 1))
    assert whole == pytest.approx(0.0)


def test_efficiency_by_hand() -> None:
    potential_before = -np.log(0.4 + 0.7) - np.log(0.45 + 0.7)
    potential_after = -np.log(0.6 + 0.6) - np.log(0.625 + 0.6)
    assert paid("efficiency", BEFORE, AFTER) == pytest.approx(potential_after - potential_before)
    assert paid("efficiency", BEFORE, AFTER, ended=True, score=-3.0) == pytest.approx(-3.0 - potential_before)
    # A round as good as the reference's earns nothing; a better one earns.
    start = ledger(0, 0, 0, 0, 0)
    assert paid("efficiency", start, ledger(0.1, 0.05, 0.05, 0.05, 0.05)) == pytest.approx(0.0)
    assert paid("efficiency", start, ledger(0.1, 0.05, 0.04, 0.05, 0.05)) > 0


def test_scores_by_hand() -> None:
    got = log_efficiency(
        np.array([True, False, False]), np.array([1.1, 0.5, -0.2]), np.array([0.8] * 3), np.array([0.5] * 3),
        np.array([3.0] * 3), np.array([2.0] * 3),
    )  # fmt: skip
    assert got == pytest.approx([np.log(1 / (0.8 * 0.5)), np.log(0.5 / 6), np.log(1e-3 / 6)])
