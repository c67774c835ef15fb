"""Three small machines, connected."""

import pytest
import torch

from fedcore.remote.node import Node
from fedcore.samples import Samples
from scenarios.schema import Workload

WORKLOAD = Workload(
    image_px=12, batch_size=6, encoder_options={"widths": [6, 8, 8]}, objective_options={"hidden": 12, "outputs": 6},
    precision="fp32", server_step=0.7,
)  # fmt: skip
NAMES = ("north", "south", "east")


def samples(n_machines: int = len(NAMES)) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    return [
        Samples(torch.randint(0, 256, (9 + k, 1, 12, 12), generator=generator, dtype=torch.uint8)) for k in range(n_machines)
    ]


@pytest.fixture
def workload() -> Workload:
    return WORKLOAD


@pytest.fixture
def names() -> tuple[str, ...]:
    return NAMES


@pytest.fixture
def held() -> list[Samples]:
    return samples()


@pytest.fixture
def connected(threads, held, tmp_path):
    """The transport with one node per machine, numbered from 100."""
    for k, name in enumerate(NAMES):
        threads.join(100 + k, Node(name, lambda workload, k=k: held[k], tmp_path / name))
    return threads
