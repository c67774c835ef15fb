"""Engines carry tasks to machines and results back; the round loop is the same over any of them."""

from fedcore.engines.base import Engine
from fedcore.engines.inprocess import InProcessEngine
from fedcore.engines.tensor import tensor_parallel_cost, train_tensor_parallel

__all__ = ["Engine", "InProcessEngine", "tensor_parallel_cost", "train_tensor_parallel"]
