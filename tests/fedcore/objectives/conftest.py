from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedcore.blocks import Block
from fedcore.local import LocalRecipe, LocalTask, train_block
from fedcore.model import Model
from fedcore.samples import Samples


def _gratings(n: int, seed: int, size: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    period, angle, phase, sharp = (
        rng.uniform(low, high, (n, 1, 1)) for low, high in ((0.2, 2.2), (0, np.pi), (0, 6.28), (0.3, 4))
    )
    wave = np.tanh(sharp * np.sin(period * (x * np.cos(angle) + y * np.sin(angle)) + phase)) / np.tanh(sharp)
    return np.clip(128 + 40 * wave + 25 * rng.normal(size=wave.shape), 0, 255).astype(np.uint8)[..., None]


@pytest.fixture(scope="session")
def tiny_images() -> Callable[..., np.ndarray]:
    """(n, seed) -> (n, 16, 16, 1) uint8 noisy stripes that differ in period, direction and sharpness."""
    return _gratings


class _Live(TorchDispatchMode):
    """Bytes of all storages that operations made and nobody has let go of yet."""

    def __init__(self, ignored: list[torch.Tensor]) -> None:
        super().__init__()
        self.peak = self.now = 0
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.ignored = [StorageWeakRef(tensor.untyped_storage()) for tensor in ignored]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for key in [key for key, (reference, _) in self.live.items() if reference.expired()]:
            self.now -= self.live.pop(key)[1]
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                if reference.cdata not in self.live and all(reference.cdata != r.cdata for r in self.ignored):
                    self.live[reference.cdata] = (reference, tensor.untyped_storage().nbytes())
                    self.now += self.live[reference.cdata][1]
        self.peak = max(self.peak, self.now)
        return out


def _peak_bytes(model: Model, block: Block, samples: Samples) -> int:
    state = model.init_state(torch.Generator().manual_seed(0))
    target = model.target_of(state)
    recipe = LocalRecipe(len(samples), precision="fp32")
    with _Live([*state.values(), *(target or {}).values(), samples.x]) as live:
        train_block(model, state, target, LocalTask(0, block, 2, (1,)), samples, recipe, torch.Generator().manual_seed(2))
    return live.peak


@pytest.fixture(scope="session")
def peak_bytes() -> Callable[[Model, Block, Samples], int]:
    """(model, block, samples) -> most bytes alive at once in two local steps, beside the server's state and the images."""
    return _peak_bytes
