import numpy as np

from agents.rollout import earned_from


def test_what_is_earned_to_the_end_by_hand():
    """The first column's episode ends with round 1 and the next is not seen to end; the second's ends with the last round."""
    rewards = np.array([[1.0, 0.5], [2.0, 0.25], [4.0, 1.0]])
    ends = np.array([[False, False], [True, False], [False, True]])
    out = earned_from(rewards, ends)
    np.testing.assert_array_equal(out[:2], [[3.0, 1.75], [2.0, 1.25]])
    assert np.isnan(out[2, 0])
    assert out[2, 1] == 1.0
