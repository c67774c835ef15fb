"""Machines as Ray actors give the weights of the in-process engine."""

import pytest
import torch

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'intrafed[ray]'")

from fedcore.engines import InProcessEngine  # noqa: E402 - only where there is Ray
from fedcore.engines.ray import RayTransport, ray_engine  # noqa: E402
from fedcore.training import FederatedTraining  # noqa: E402
from fedcore.workload import method_of, model_for, recipe_of  # noqa: E402

pytestmark = pytest.mark.slow


def training(engine, workload, names) -> FederatedTraining:
    model = model_for(workload, 1)
    return FederatedTraining(model, engine, names, lambda model, state: 1.0, None, method=method_of(workload), seed=4)


def test_weights_equal_those_in_process_bit_for_bit_and_a_dead_actor_is_lost(workload, names, held):
    here = training(InProcessEngine(held, recipe_of(workload)), workload, names)
    engine = ray_engine(workload, names, held, cores=0.2)
    try:
        there = training(engine, workload, names)
        for shares in ([0.5, 1.0, 0.25], [1.0, 0.0, 0.5]):
            here.play(shares, 2)
            assert there.play(shares, 2).lost == ()
        assert all(torch.equal(here.state[name], there.state[name]) for name in here.state)
        assert isinstance(engine.transport, RayTransport)
        ray.kill(engine.transport._actors[1])
        report = there.play([0.5, 0.5, 0.5], 1)
        assert report.came_back == (True, False, True)
        assert report.lost == ("machine south: its Ray actor died",)
    finally:
        engine.close()
    assert not ray.is_initialized()
