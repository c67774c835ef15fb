import numpy as np
import torch

from fedcore.methods import FedRolex, Server
from fedcore.model import build_model


def windows(round_index: int, shares: list[float]):
    model = build_model((1, 8, 8), "mlp", "simclr", {"widths": (10,)}, {"hidden": 8, "outputs": 5})
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, ("a", "b"), (9, 9), 0, round_index)
    return FedRolex().blocks(server, shares, np.random.default_rng(0))


def test_the_window_moves_by_one_neuron_a_round_and_wraps():
    for r in range(25):
        wide, narrow = windows(r, [0.5, 0.25])
        assert set(wide.trained["fc1"].tolist()) == {(r + i) % 10 for i in range(5)}
        assert set(narrow.trained["fc1"].tolist()) == {(r + i) % 10 for i in range(3)}
        assert set(narrow.trained["projector.hidden"].tolist()) == {(r + i) % 8 for i in range(2)}
        assert wide.trained["projector.out"].tolist() == list(range(5))
        assert narrow.scale == {"fc1": 10 / 3, "projector.hidden": 4.0}


def test_one_turn_trains_every_neuron_equally_often():
    counts = np.zeros(10, int)
    for r in range(10):
        counts[windows(r, [0.25, 0.0])[0].trained["fc1"]] += 1
    assert (counts == 3).all()
