import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.blocks import whole_weights
from fedcore.model import build_model
from fedcore.probes import HeldOutLoss

torch.set_num_threads(1)

MODEL = build_model((6, 4), "gpt", "next-token", {"dim": 8, "depth": 1, "heads": 2})
STATE = MODEL.init_state(torch.Generator().manual_seed(0))
STATE["unembedding.weight"] *= 20


def windows(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 6, (n, 5))


@pytest.mark.parametrize("n", [3, 150])  # more than one part, the last one smaller
def test_it_is_the_mean_over_all_tokens(n):
    tokens = torch.from_numpy(windows(n))
    features = MODEL.encoder.features(whole_weights(STATE), tokens[:, :-1])
    log_p = F.log_softmax(features @ STATE["unembedding.weight"].T + STATE["unembedding.bias"], dim=-1)
    expected = -log_p.gather(2, tokens[:, 1:, None]).mean()
    assert HeldOutLoss(windows(n), 6)(MODEL, STATE) == pytest.approx(float(expected), rel=1e-5)


def test_it_takes_windows_evenly():
    probe = HeldOutLoss(windows(101), 6, size=5)
    assert np.array_equal(probe.windows.numpy(), windows(101)[[0, 25, 50, 75, 100]])
    assert len(HeldOutLoss(windows(3), 6, size=5).windows) == 3


def test_chance_is_what_uniform_guessing_loses():
    probe = HeldOutLoss(windows(10), 6)
    assert probe.chance == pytest.approx(math.log(6))
    blank = STATE | {n: torch.zeros_like(t) for n, t in STATE.items() if n.startswith("unembedding")}
    assert probe(MODEL, blank) == pytest.approx(probe.chance)
