import numpy as np
import pytest
import torch

from fedcore.methods import Exclusive, Server
from fedcore.model import build_model
from scenarios.errors import InputError


def blocks(shares):
    model = build_model((1, 8, 8), "mlp", "simclr", {"widths": (6,)}, {"hidden": 8, "outputs": 5})
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, tuple("abcd"[: len(shares)]), (9,) * len(shares), 0)
    return Exclusive().blocks(server, shares, np.random.default_rng(0))


def test_only_machines_that_hold_everything_take_part():
    out = blocks([1.0, 0.5, 0.0, 1.0])
    assert [block is None for block in out] == [False, True, True, False]
    assert out[0].trained["fc1"].tolist() == list(range(6))


def test_nobody_invited_is_a_round_without_work():
    assert blocks([0.0, 0.0]) == [None, None]


def test_weak_machines_alone_are_refused():
    with pytest.raises(InputError, match=r"exclusive: the largest share is 0.5, expected 1 .* or method heterofl"):
        blocks([0.5, 0.25])
