"""Engines carry tasks to machines and results back; the round loop is the same over any of them."""

from fedcore.engines.inprocess import InProcessEngine

__all__ = ["InProcessEngine"]
