import numpy as np
import torch

from fedcore.methods import FederatedDropout, Server
from fedcore.model import build_model


def subsets(seed: int, shares: list[float]):
    model = build_model((1, 8, 8), "mlp", "simclr", {"widths": (20,)}, {"hidden": 12, "outputs": 5})
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, tuple("abcd"[: len(shares)]), (9,) * len(shares), 0)
    return FederatedDropout().blocks(server, shares, np.random.default_rng(seed))


def test_every_machine_draws_a_fixed_number_of_its_own_and_any_may_overlap():
    counts, overlaps, drawn = np.zeros(20), 0, set()
    for seed in range(200):
        one, two = subsets(seed, [0.3, 0.51])
        assert len(one.trained["fc1"]) == 6
        assert len(two.trained["fc1"]) == 11
        assert one.scale["fc1"] == 20 / 6
        counts[one.trained["fc1"]] += 1
        overlaps += len(set(one.trained["fc1"].tolist()) & set(two.trained["fc1"].tolist()))
        drawn.add(tuple(one.trained["fc1"].tolist()))
    assert len(drawn) > 190
    assert np.abs(counts / 200 - 0.3).max() < 0.13  # four standard deviations
    assert abs(overlaps / 200 - 6 * 11 / 20) < 0.35
