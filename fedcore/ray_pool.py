"""Independent jobs over a Ray cluster instead of this machine's cores: `parallel.run_kept` takes either."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from fedcore.parallel import WORKER_ENVIRONMENT
from scenarios.errors import InputError


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    import torch

    torch.set_num_threads(1)
    return function(*arguments)


def need_ray() -> None:
    """Refuse to go on without Ray.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("ray") is None:
        raise InputError("--engine ray needs Ray, which is not installed: pip install 'intrafed[ray]'")


class RayPool:
    """Submits jobs as `concurrent.futures.Executor` does, each to a single-threaded process on one core of the cluster."""

    def __init__(self, ray: Any) -> None:
        self._call = ray.remote(num_cpus=1, runtime_env={"env_vars": WORKER_ENVIRONMENT})(_call)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Any]:
        """Run a module-level function somewhere; what it raises is raised by the future's `result`."""
        future: concurrent.futures.Future[Any] = self._call.remote(function, arguments).future()
        return future


@contextmanager
def ray_pool(workers: int) -> Iterator[RayPool]:
    """The cluster that the environment variable RAY_ADDRESS names, where its machines have this package; else one started here.

    Args:
        workers: cores of one that is started here.

    Raises:
        InputError: Ray is not installed.
    """
    need_ray()
    import ray

    mine = not ray.is_initialized()
    if mine:
        here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers}
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **here)
    try:
        yield RayPool(ray)
    finally:
        if mine:
            ray.shutdown()
