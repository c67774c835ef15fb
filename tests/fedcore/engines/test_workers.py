import importlib

import numpy as np
import pytest
import torch

from fedcore.engines import InProcessEngine
from fedcore.engines import workers as processes
from fedcore.local import LocalRecipe, LocalTask
from fedcore.methods import FedAvg, IntraLayer
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

RECIPE = LocalRecipe(batch_size=6, precision="fp32")


def samples(n_machines: int) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    return [
        Samples(torch.randint(0, 256, (9 + k, 1, 12, 12), generator=generator, dtype=torch.uint8)) for k in range(n_machines)
    ]


def played(workers: int, method, objective: str) -> tuple[dict, list]:
    model = build_model((1, 12, 12), "convnet", objective, {"widths": (6, 8, 8)}, {"hidden": 12, "outputs": 6})
    with InProcessEngine(samples(5), RECIPE, workers) as engine:
        training = FederatedTraining(model, engine, "abcde", lambda model, state: 1.0, None, method=method, seed=4)
        losses = [training.play([0.5, 1.0, 0.0, 0.25, 0.5], 2).losses for _ in range(3)]
    return training.state, losses


@pytest.mark.parametrize(("method", "objective"), [(FedAvg(), "byol"), (IntraLayer(0.7, context=0.5), "simclr")])
def test_results_do_not_depend_on_the_number_of_workers_bit_for_bit(method, objective):
    alone, losses = played(1, method, objective)
    for workers in (2, 3):
        state, same = played(workers, method, objective)
        np.testing.assert_array_equal(losses, same)
        assert all(torch.equal(state[name], alone[name]) for name in alone)


def test_a_failing_task_is_told_with_its_traceback_and_the_engine_goes_on():
    model = build_model((1, 12, 12), "mlp", "simclr", {"widths": (6,)}, {"hidden": 12, "outputs": 6})
    with InProcessEngine([*samples(2), Samples(torch.zeros(4, 3, 5, 5, dtype=torch.uint8))], RECIPE, 2) as engine:
        training = FederatedTraining(model, engine, "abc", lambda model, state: 1.0, None, seed=4)
        with pytest.raises(RuntimeError, match=r"worker process[\s\S]*Traceback"):
            training.play([1.0, 1.0, 1.0], 1)
        training.play([1.0, 1.0, 0.0], 1)


def test_a_task_that_is_refused_ends_in_the_same_sentence_as_without_workers():
    model = build_model((1, 12, 12), "mlp", "supervised", {"widths": (6,)})
    with InProcessEngine(samples(2), RECIPE, 2) as engine:
        training = FederatedTraining(model, engine, "ab", lambda model, state: 1.0, None, seed=4)
        with pytest.raises(InputError, match=r"^objective supervised needs samples with labels"):
            training.play([1.0, 1.0], 1)


LARGE = 300_000
"""Numbers that no pipe's buffer holds."""
ANSWERS = f"""
import torch
from fedcore.local import LocalResult

def answer_at_length(method, model, state, target, task, samples, recipe):
    return LocalResult({{"w": torch.full(({LARGE},), float(task.machine))}}, 0.0, 1, 1)
"""


def test_large_tasks_and_results_pass_where_there_is_no_shared_memory(monkeypatch, tmp_path):
    # Spawned processes import the function by its module's name, which pytest's import mode hides.
    (tmp_path / "lengthy_answers.py").write_text(ANSWERS)
    monkeypatch.syspath_prepend(tmp_path)
    answer_at_length = importlib.import_module("lengthy_answers").answer_at_length

    class Full(processes.Arena):
        def __init__(self, size: int, name: str | None = None) -> None:
            if size > 1 << 12:
                raise OSError("no space left")
            super().__init__(size, name)

    monkeypatch.setattr(processes, "Arena", Full)
    pool = processes.Workers(2, answer_at_length, samples(5), RECIPE)
    tasks = [LocalTask(k, None, 1, (0,), extra={"c": {"w": torch.zeros(LARGE)}}) for k in range(5)]
    try:
        results = pool.train(None, None, {"w": torch.zeros(LARGE)}, None, tasks)
    finally:
        pool.close()
    assert [float(result.trained["w"][0]) for result in results] == [0, 1, 2, 3, 4]
