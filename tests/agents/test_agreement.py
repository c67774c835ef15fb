"""Agreement of the tiers, by hand, and fixed decisions by name."""

import numpy as np
import pytest

from agents.agreement import agreement, agreement_grid, agreement_plot, policy_grid
from agents.benchmark import EpisodeResult, orchestrator
from agents.fixed import parse_fixed
from envs.spaces import decode
from fedcore.world import compile_world
from scenarios import InputError, load


def episode(agent: str, score: float, cost: float = 1.0, reached: bool = True, scenario: str = "x") -> EpisodeResult:
    return EpisodeResult(agent, scenario, 0, score, reached, 1.0, cost, 2 * cost, 3 * cost, 0.0, 5, [])


def test_agreement_by_hand() -> None:
    simulated = [episode("a", 1.0, 2.0), episode("a", 3.0, 8.0), episode("b", 1.0), episode("c", 0.0), episode("d", -1.0)]
    real = [episode("a", 1.5, 2.0), episode("b", 1.6), episode("c", 0.5), episode("d", 0.7, reached=False)]
    (found,) = agreement(simulated, real)
    assert found.policies == ("a", "b", "c", "d")
    assert found.simulated.tolist() == [2.0, 1.0, 0.0, -1.0]
    # Ranks 4 3 2 1 against 3 4 1 2.
    assert found.spearman == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert found.best_kept == pytest.approx(np.exp(-0.1))
    assert found.cost_ratio[0] == pytest.approx([2.0, 2.0, 2.0, 1.0])  # geometric mean of 2 and 8, over 2
    assert np.isnan(found.cost_ratio[3]).all()
    assert found.bias == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert agreement_grid([found]).rows == (("x", "0.60", "a", "b", "0.90", "1.00", "1.00", "1.00", "1.00"),)
    assert [row[0] for row in policy_grid(found).rows] == ["b", "a", "d", "c"]
    assert policy_grid(found).rows[2] == ("d", "-1.00", "+0.70", "-", "-", "-", "-")
    assert len(agreement_plot([found]).axes[0].texts) == 4


def test_scenarios_stay_apart() -> None:
    simulated = [episode("a", 1.0), episode("a", 5.0, scenario="y")]
    real = [episode("a", 2.0, scenario="y"), episode("a", 3.0)]
    assert {f.scenario: (f.simulated[0], f.real[0]) for f in agreement(simulated, real)} == {"x": (1.0, 3.0), "y": (5.0, 2.0)}


def test_fixed_decisions_by_name() -> None:
    scenario = load("farm-lte")
    world = compile_world(scenario)

    def decided(name: str) -> tuple[list[float], int]:
        action = orchestrator(name, scenario).decide(np.zeros(1))
        shares, level = decode(action[None], np.array([len(scenario.decision.sync_intervals)]))
        return shares[0, :6].round(3).tolist(), scenario.decision.sync_intervals[int(level[0])]

    assert decided("fixed:0.5x10") == ([0.5] * 6, 10)
    assert decided("fixed:.25x33/3") == ([0.25] * 3 + [0.0] * 3, 40)  # the new gateways are the faster ones
    assert decided("fixed:1x1/99") == ([1.0] * 6, 2)
    assert parse_fixed("fixed:1x40/1", world).name == "fixed:1x40/1"
    for name in ("fixed:", "fixed:0.5", "fixed:ax10", "fixed:0.5x10/"):
        with pytest.raises(InputError, match="is no fixed decision"):
            parse_fixed(name, world)
    for name in ("fixed:1.5x10", "fixed:0x10", "fixed:1x0", "fixed:1x1/0"):
        with pytest.raises(InputError, match="expected a share"):
            parse_fixed(name, world)
