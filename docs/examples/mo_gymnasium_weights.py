"""mo-gymnasium: one episode's vector return, and what weights make of it. `pip install mo-gymnasium` first."""

import mo_gymnasium as mo
import numpy as np
from mo_gymnasium.wrappers import LinearReward

import envs  # noqa: F401 - registers


def main() -> tuple[np.ndarray, float]:
    """Vector return (4,) of half shares for everyone, and its return under weights 3, 1, 1, 1."""
    env = LinearReward(mo.make("IntraFed/Orchestration-MO-v0", scenario="phones"), weight=np.array([3.0, 1.0, 1.0, 1.0]))
    env.reset(seed=0)
    total, weighted, ended = np.zeros(4), 0.0, False
    while not ended:
        _, reward, ended, _, info = env.step(np.full(17, 0.25, dtype=np.float32))
        total += info["vector_reward"]
        weighted += reward
    return total, float(weighted)


if __name__ == "__main__":
    vector, scalar = main()
    print("progress, -time, -energy, -bytes:", vector.round(3), "weighted:", round(scalar, 3))
