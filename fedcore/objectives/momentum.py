"""The momentum of a target network: constant, or rising to 1 along half a cosine (BYOL, Grill et al. 2020, section 3.3)."""

from __future__ import annotations

from math import cos, pi

from scenarios.errors import InputError


def cosine_momentum(start: float, step: int, schedule_steps: int | None) -> float:
    """m_t = 1 - (1 - m_0) (cos(pi t / T) + 1) / 2.

    Args:
        start: m_0.
        step: t, local steps done before this one.
        schedule_steps: T; from there on the momentum is 1 and the target stands still. None keeps it at m_0.
    """
    if schedule_steps is None:
        return start
    return 1.0 - (1.0 - start) * (cos(pi * min(step / schedule_steps, 1.0)) + 1.0) / 2.0


def check_momentum(objective: str, target_momentum: float, schedule_steps: int | None) -> None:
    """Refuse a schedule that is none.

    Raises:
        InputError: a momentum outside [0, 1], or fewer than one step.
    """
    if not 0.0 <= target_momentum <= 1.0:
        raise InputError(f"{objective}: target_momentum is {target_momentum}, expected a number from 0 to 1")
    if schedule_steps is not None and schedule_steps < 1:
        raise InputError(
            f"{objective}: schedule_steps is {schedule_steps}, expected at least 1, or none for a constant momentum"
        )
