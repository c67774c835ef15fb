"""Crews and turns, by hand."""

from collections.abc import Callable

import numpy as np

from envs.crews import COVERED, crew, in_turn, thriftiest
from envs.menu import PATTERNS
from envs.observation import View

Hand = Callable[..., View]


def test_a_crew_is_the_best_whose_data_suffice_and_takes_turns(hand: Hand) -> None:
    alone = hand(step_time=[0.5, 0.0, 0.2, 0.9])
    assert np.flatnonzero(crew(alone, 10.0)).tolist() == [1]
    # One machine leads to half of the target, all four of them to all that there is: two are enough.
    few = hand(step_time=[0.5, 0.0, 0.2, 0.9], teaches=[0.4] * 4, measurement_age=[0.3, 0.1, 0.2, 0.9])
    assert 0.4 + 0.6 * np.log(2) / np.log(4) > 1 / 1.5 > 0.4
    assert np.flatnonzero(crew(few, 10.0)).tolist() == [1, 2]
    assert np.flatnonzero(crew(few, 10.0, turns=3)).tolist() == [2]
    assert np.flatnonzero(crew(few, 10.0, most=1)).tolist() == [1]
    assert np.flatnonzero(crew(few, 10.0, turns=3, more=1)).tolist() == [0]  # of the three it has waited longest
    by_name = {name: np.flatnonzero(pattern(few, 10.0)).tolist() for name, pattern in PATTERNS.items()}
    assert (by_name["crew-singly"], by_name["crew-more"], by_name["best"], by_name["two"]) == ([2], [0], [1], [1, 2])
    assert np.flatnonzero(crew(few, 10.0, margin=1.2)).tolist() == [0, 1, 2]
    few.fleet.update({name: np.array(0.5) for name in ("time_vs_reference", "energy_vs_reference", "bytes_vs_reference")})
    for pattern in (crew(few, 10.0), crew(few, 10.0, most=1), crew(few, 10.0, turns=3)):
        assert np.flatnonzero(pattern).tolist() == [0, 3]  # it has cost much and not sufficed
    # The fastest has next to no data, and those of the next two suffice without it.
    idle = hand(step_time=[0.0, 0.2, 0.5, 0.9], teaches=[0.05, 0.4, 0.4, 0.4], data=[0.01, 0.5, 0.5, 0.5])
    assert np.flatnonzero(crew(idle, 10.0)).tolist() == [1, 2]
    assert np.flatnonzero(crew(idle, 10.0, more=1)).tolist() == [1, 2, 3]
    hopeless = hand(step_time=[0.5, 0.0, 0.2], teaches=[0.1] * 3, measurement_age=[0.3, 0.1, 0.2])
    hopeless.fleet["teaches"] = np.array(0.2)
    assert np.flatnonzero(crew(hopeless, 10.0)).tolist() == [0, 1, 2]
    assert np.flatnonzero(crew(hopeless, 10.0, turns=3)).tolist() == [0]
    gone = hand(step_time=[0.0, 0.3], leaves=[0.9, 0.0])
    assert np.flatnonzero(crew(gone, 10.0)).tolist() == [1]


def test_where_memory_holds_a_part_so_many_are_asked_that_their_blocks_cover_the_neurons(hand: Hand) -> None:
    limits = [0.4, 0.5, 0.45, 0.25]
    limited = hand(step_time=[0.5, 0.0, 0.2, 0.9], max_share=limits, measurement_age=[0.9, 0.1, 0.2, 0.3])
    # Each alone would do for its data; the best two hold 0.95 of the neurons.
    assert crew(limited, 10.0).tolist() == [0.0, 0.5, 0.45, 0.0]
    assert crew(limited, 10.0, turns=3).tolist() == [0.0, 0.5, 0.45, 0.0]  # either alone covers too little
    assert crew(limited, 10.0, turns=9, more=9).tolist() == [0.4, 0.0, 0.0, 0.25]  # who waited longest, and that is enough
    assert crew(limited, 10.0, most=1).tolist() == [0.0, 0.5, 0.0, 0.0]  # the best alone is another move
    # Four of these would be needed: not worth it.
    assert crew(hand(max_share=[0.15] * 5), 10.0).tolist() == [0.15, 0.0, 0.0, 0.0, 0.0]
    assert in_turn(hand(max_share=[0.1, 0.1]), 10.0, 2.0).tolist() == [0.1, 0.0]
    enough = hand(step_time=[0.5, 0.0], max_share=[COVERED, COVERED])
    assert np.flatnonzero(crew(enough, 10.0)).tolist() == [1]
    assert thriftiest(hand(step_energy=[0.5, 0.0, 0.2], max_share=[0.5, 0.4, 0.3]), 10.0).tolist() == [0.0, 0.4, 0.3]


def test_turns_weigh_time_and_cost_by_waiting_and_by_data(hand: Hand) -> None:
    # One third of the time and energy, but the other has waited for four rounds: 5 times as long as somebody just asked.
    waited = float(np.tanh(4.0 / 10.0))
    two = hand(step_time=[0.0, np.log10(3.0)], step_energy=[0.0, np.log10(3.0)], measurement_age=[0.0, waited],
               upload_time=[-9.0] * 2, download_time=[-9.0] * 2, radio_energy=[-9.0] * 2, idle_energy=[-9.0] * 2)  # fmt: skip
    two.fleet["energy_weight"] = np.array(1.0)  # merit is time x energy: 9 times as much
    asked = {patience: int(in_turn(two, 100.0, patience).argmax()) for patience in (0.0, 1.0, 1.3, 1.5, 2.0)}
    assert asked == {0.0: 0, 1.0: 0, 1.3: 0, 1.5: 1, 2.0: 1}  # 5 ** 1.365 = 9
    two.machine.update(data=np.array([0.1, 0.5]), teaches=np.array([0.3, 0.9]))
    assert int(in_turn(two, 100.0, 0.0, data=1.0).argmax()) == 0  # 5 times the data at 9 times the price
    assert int(in_turn(two, 100.0, 0.5, data=1.0).argmax()) == 1
    assert int(in_turn(two, 100.0, 1.0, teaches=1.0).argmax()) == 1
    assert int(in_turn(two, 100.0, 0.5, teaches=1.0).argmax()) == 0
    # Whose rounds have come out ahead is worth more, by the exponential.
    two.machine["surplus"] = np.array([0.0, 3.0])
    assert int(in_turn(two, 100.0, 0.5, teaches=1.0).argmax()) == 0
    assert int(in_turn(two, 100.0, 0.5, teaches=1.0, surplus=1.0).argmax()) == 1
    away = hand(step_time=[0.0, 0.5], available=[0.0, 1.0])
    assert in_turn(away, 10.0, 2.0).tolist() == [0.0, 1.0]
    assert not in_turn(hand(available=[0.0, 0.0]), 10.0, 2.0).any()
