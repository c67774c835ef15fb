"""Federated supervised rounds on ours, plain torch, pfl and Flower: seconds of every round after the first."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch.nn import functional as F

from benchmarks.peers.nets import (
    BATCH,
    CLIENTS,
    CONV_STRIDES,
    CONV_WIDTHS,
    MLP_WIDTHS,
    NETS,
    RATE,
    SHAPES,
    STEPS,
    float_data,
    uint8_data,
)


def ours(case: str, rounds: int, workers: int, precision: str) -> list[float]:
    from fedcore.engines import InProcessEngine
    from fedcore.local import LocalRecipe
    from fedcore.methods import FedAvg
    from fedcore.model import build_model
    from fedcore.samples import Samples
    from fedcore.training import FederatedTraining

    options = {"conv": {"widths": CONV_WIDTHS, "strides": CONV_STRIDES, "first_kernel": 3}, "mlp": {"widths": MLP_WIDTHS}}
    model = build_model(SHAPES[case], "convnet" if case == "conv" else "mlp", "supervised", options[case], {"classes": 10})
    recipe = LocalRecipe(BATCH, RATE, 0.0, optimizer="sgd", precision=precision)
    samples = [Samples(*uint8_data(case, k)) for k in range(CLIENTS[case])]
    names = [f"client-{k}" for k in range(CLIENTS[case])]
    seconds = []
    with InProcessEngine(samples, recipe, workers) as engine:
        training = FederatedTraining(model, engine, names, lambda model, state: 1.0, None, method=FedAvg())
        for _ in range(rounds + 1):
            start = time.perf_counter()
            training.play([1.0] * len(names), STEPS)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def plain(case: str, rounds: int, threads: int) -> list[float]:
    torch.set_num_threads(threads)
    data = [float_data(case, k) for k in range(CLIENTS[case])]
    net = NETS[case]()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for x, y in data:
            net.load_state_dict(weights)
            optimiser = torch.optim.SGD(net.parameters(), RATE)
            for xb, yb in zip(x.split(BATCH), y.split(BATCH), strict=True):
                optimiser.zero_grad()
                F.cross_entropy(net(xb), yb).backward()
                optimiser.step()
            for name, value in net.state_dict().items():
                total[name] += value / len(data)
        weights = total
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def pfl(case: str, rounds: int, threads: int) -> list[float]:
    import numpy as np
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    torch.set_num_threads(threads)
    net = NETS[case]()
    net.loss = lambda x, y, eval=False: F.cross_entropy(net(x), y)  # type: ignore[assignment]
    net.metrics = lambda x, y, eval=False: {}  # type: ignore[assignment]
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0))
    data = {k: float_data(case, k) for k in range(CLIENTS[case])}
    users = FederatedDataset(lambda k: Dataset(raw_data=list(data[k])), get_user_sampler("minimize_reuse", list(data)))
    stamps: list[float] = []

    class Clock(TrainingProcessCallback):
        def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
            stamps.append(time.perf_counter())
            return False, Metrics()

    np.random.seed(0)  # noqa: NPY002  (pfl samples users from the global generator)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds + 1, evaluation_frequency=10**9, train_cohort_size=len(data), val_cohort_size=0
        ),
        backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=RATE
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
        callbacks=[Clock()],
    )
    return [after - before for before, after in pairwise(stamps)]


def flower(case: str, rounds: int, threads: int) -> list[float]:
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server, stamps = ClientApp(), ServerApp(), []

    @client.train()  # type: ignore[untyped-decorator]
    def train(message, context):  # type: ignore[no-untyped-def]
        torch.set_num_threads(threads)
        net = NETS[case]()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = float_data(case, int(context.node_config["partition-id"]))
        optimiser = torch.optim.SGD(net.parameters(), RATE)
        for xb, yb in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimiser.zero_grad()
            F.cross_entropy(net(xb), yb).backward()
            optimiser.step()
        content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(x)})}
        return Message(content=RecordDict(content), reply_to=message)

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid, context):  # type: ignore[no-untyped-def]
        def clock(round_index: int, arrays: ArrayRecord) -> None:
            stamps.append(time.perf_counter())

        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS[case])
        strategy.start(grid, ArrayRecord(NETS[case]().state_dict()), num_rounds=rounds + 1, evaluate_fn=clock)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, client, num_supernodes=CLIENTS[case], backend_config=resources)
    # The first stamp is before round 1, which also starts Ray's actors.
    return [after - before for before, after in pairwise(stamps[1:])]


ENGINES: dict[str, Callable[[str, int], list[float]]] = {
    "intrafed, 2 processes, bf16 autocast": lambda case, rounds: ours(case, rounds, 2, "auto"),
    "intrafed, 2 processes, fp32": lambda case, rounds: ours(case, rounds, 2, "fp32"),
    "intrafed, 1 process, fp32": lambda case, rounds: ours(case, rounds, 1, "fp32"),
    "plain torch loop, 1 thread": lambda case, rounds: plain(case, rounds, 1),
    "plain torch loop, 2 threads": lambda case, rounds: plain(case, rounds, 2),
    "pfl, 1 thread": lambda case, rounds: pfl(case, rounds, 1),
    "pfl, 2 threads": lambda case, rounds: pfl(case, rounds, 2),
    "Flower simulation on Ray, 2 actors": lambda case, rounds: flower(case, rounds, 1),
}
