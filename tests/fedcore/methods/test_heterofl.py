import numpy as np
import torch

from fedcore.methods import HeteroFL, Server
from fedcore.model import build_model


def test_everyone_holds_the_first_channels_and_scales_by_the_part_that_is_held():
    model = build_model((1, 8, 8), "convnet", "simclr", {"widths": (6, 9), "strides": (2, 1)}, {"hidden": 16, "outputs": 5})
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, tuple("abc"), (9, 9, 9), 0, round_index=7)
    whole, half, quarter = HeteroFL().blocks(server, [1.0, 0.5, 0.25], np.random.default_rng(0))
    assert whole.scale == {}
    for block, sizes in ((half, (3, 5, 8)), (quarter, (2, 3, 4))):
        for name, m, n in zip(("conv1", "conv2", "projector.hidden"), sizes, (6, 9, 16), strict=True):
            assert block.trained[name].tolist() == list(range(m))
            assert block.scale[name] == n / m
        assert block.trained["projector.out"].tolist() == list(range(5))
        assert "projector.out" not in block.scale
    assert HeteroFL(scaler=False).blocks(server, [0.5] * 3, np.random.default_rng(0))[0].scale == {}
