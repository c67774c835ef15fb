"""What every method charges a machine for."""

import numpy as np
import pytest
import torch

from fedcore.local import LocalRecipe
from fedcore.methods import METHODS, Server
from fedcore.model import build_model


@pytest.mark.parametrize("name", sorted(METHODS))
def test_who_holds_fewer_samples_than_a_batch_pays_for_those(name: str) -> None:
    plain = {"optimizer": "sgd", "weight_decay": 0.0} if name in ("scaffold", "pfedme") else {}
    recipe, small = LocalRecipe(batch_size=32, **plain), LocalRecipe(batch_size=8, **plain)
    objective = "byol" if name in ("fedbyol", "fedu", "fedema") else "simclr"
    model = build_model((1, 16, 16), "convnet", objective, {"widths": (8, 8, 8)}, {"hidden": 16, "outputs": 8})
    options = {"noise_multiplier": 1.0} if name == "private" else {}
    method = METHODS[name](**options)
    method.check(model, recipe)
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, model.target_of(state), ("few", "many"), (8, 100), 0, kept=[{}, {}], recipe=recipe)
    method.start(server)
    method.begin_round(server)
    blocks = method.blocks(server, [1.0, 1.0], np.random.default_rng(0))
    costs = [method.cost(server, k, block, 5, recipe) for k, block in enumerate(blocks) if block is not None]
    assert len(costs) == 2
    server.samples = (100, 100)
    batch_of_8, full = (method.cost(server, 0, blocks[0], 5, r) for r in (small, recipe))
    assert costs[0] == batch_of_8
    assert costs[0].step_flops == pytest.approx(full.step_flops / 4)
    assert costs[0].memory_bytes < full.memory_bytes
    assert costs[1].step_flops > costs[0].step_flops
