import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Bytes of all tensor storages that operations made and nobody has let go of yet, kept by autograd or not.

    Attributes:
        peak: most bytes at once.
    """

    def __init__(self, ignored: list[torch.Tensor]) -> None:
        super().__init__()
        self.peak = self.now = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._ignored = [StorageWeakRef(tensor.untyped_storage()) for tensor in ignored]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for key in [key for key, (reference, _) in self._live.items() if reference.expired()]:
            self.now -= self._live.pop(key)[1]
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)
            if reference.cdata not in self._live and all(reference.cdata != r.cdata for r in self._ignored):
                self._live[reference.cdata] = (reference, storage.nbytes())
                self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        return out


@pytest.fixture
def live_tensors() -> type[LiveTensors]:
    return LiveTensors
