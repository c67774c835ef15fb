"""Engines carry blocks to machines and back; the round loop is the same over any of them."""

from fedcore.engines.inprocess import InProcessEngine, LocalTask

__all__ = ["InProcessEngine", "LocalTask"]
