"""Where jobs run: Dask's processes on this machine, on SLURM, PBS or Kubernetes, or a scheduler.

M. Rocklin, "Dask: Parallel computation with blocked algorithms and task scheduling", Proc. 14th
Python in Science Conf. (2015) 130-136. Nothing of Dask is imported before a cluster is asked for.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .memory import LIBRARIES

if TYPE_CHECKING:
    from distributed import Client

SHARE = 0.9
"""Of the machine's free memory that processes may have together."""

ADDRESS = re.compile(r":\d+$")
"""A host and its port, with or without a protocol before it."""

DASHBOARD = "127.0.0.1:0"
"""Where Dask shows what it does: for this machine alone, as it asks no password; any free port."""

PATIENCE = 60
"""Time that a worker waits for a scheduler that is gone before it ends [s]."""


class Kind(StrEnum):
    """Kinds of clusters; any other word is the address or the file of a scheduler."""

    local = "local"
    slurm = "slurm"
    pbs = "pbs"
    kubernetes = "kubernetes"


NEEDS = {
    Kind.local: ("distributed", "dmrimicro[cohort]"),
    Kind.slurm: ("dask_jobqueue", "dmrimicro[cohort]"),
    Kind.pbs: ("dask_jobqueue", "dmrimicro[cohort]"),
    Kind.kubernetes: ("dask_kubernetes.operator", "dask-kubernetes"),
}
"""The module that each kind needs, and what to install for it."""


@dataclass(frozen=True)
class Place:
    """Where to run.

    Attributes
    ----------
    cluster : str
        A `Kind`, the address of a scheduler (tcp://host:8786) or its file (.json).
    workers : int or None
        Processes at most. None: on this machine as many as cores and memory allow, or as there are
        GPUs; elsewhere it must be said.
    threads : int
        Of each process.
    memory : float or None
        Bytes of each process.
    walltime, queue, account : str
        Of the jobs of SLURM and PBS.
    options : tuple of str
        Lines for the head of their scripts, such as "--gres=gpu:1".
    image : str
        Of Kubernetes' containers.
    """

    cluster: str = "local"
    workers: int | None = None
    threads: int = 1
    memory: float | None = None
    walltime: str = "04:00:00"
    queue: str = ""
    account: str = ""
    options: tuple[str, ...] = field(default=())
    image: str = ""


def local_workers(memory: float, free: float, cores: int, gpus: int = 0) -> int:
    """How many processes fit this machine: one a core, or a GPU, as far as memory goes.

    Raises
    ------
    InputError
        If there is not room for one.
    """
    fitting = int(SHARE * free // memory)
    if fitting < 1:
        raise InputError(
            f"a process needs about {memory / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            "Close other programs, use a larger machine, or say how much to allow (--memory).",
        )
    return max(1, min(fitting, gpus or cores))


@contextmanager
def opened(place: Place, need: float = LIBRARIES) -> Iterator[Client]:
    """Open a cluster and give its client; both are closed in the end.

    Parameters
    ----------
    place : Place
    need : float
        Bytes that a process needs, where `place` does not say.

    Raises
    ------
    InputError
        If a package is missing, or the scheduler cannot be reached.
    """
    kind = Kind(place.cluster) if place.cluster in list(Kind) else None
    _module(*NEEDS[kind or Kind.local])
    import dask
    from distributed import Client

    # a worker that is short of memory must end by itself, not be stopped for good by a pause
    settings = {"distributed.worker.memory.pause": False, "distributed.worker.memory.spill": False}
    with dask.config.set(settings | {"distributed.comm.timeouts.connect": f"{PATIENCE}s"}):
        cluster = None if kind is None else MAKERS[kind](place, need)
        try:
            with _client(Client, place, cluster) as client:
                yield client
        finally:
            if cluster is not None:
                cluster.close(timeout=PATIENCE)


def gpu_of(worker: object, count: int) -> str:
    """Name the GPU of a process on one machine, by the process's number."""
    return f"cuda:{int(worker) % count}" if count and str(worker).isdigit() else "auto"


def gpus() -> int:
    """Count the GPUs of this machine."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _client(make: Any, place: Place, cluster: Any) -> Client:
    if cluster is not None:
        return make(cluster)
    file = place.cluster.endswith(".json")
    try:
        if not (os.path.exists(place.cluster) if file else ADDRESS.search(place.cluster)):
            raise ValueError("there is no such file" if file else "it is no address")
        return make(scheduler_file=place.cluster) if file else make(place.cluster)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no scheduler answers at {place.cluster!r} ({error})",
            f"Give {', '.join(Kind)}, or the address of a Dask scheduler that runs.",
        ) from error


def _local(place: Place, need: float) -> Any:
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    memory = place.memory or need
    workers = place.workers or local_workers(memory, _free(MEMORY_LIMIT), cores(), gpus())
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,  # jobs share no memory: a process that dies takes one of them along
        processes=True,
        memory_limit=None if place.memory is None else int(place.memory),
        dashboard_address=DASHBOARD,
        host="127.0.0.1",
        silence_logs=logging.ERROR,  # not every end of a process: what failed is told in the end
    )


def _queue(place: Place, need: float) -> Any:
    module = _module(*NEEDS[Kind(place.cluster)])
    make = module.SLURMCluster if place.cluster == Kind.slurm else module.PBSCluster
    megabytes = math.ceil((place.memory or need) / 1e6)
    if place.cluster == Kind.slurm:
        cpus = {"job_cpu": place.threads}
    else:
        cpus = {"resource_spec": f"select=1:ncpus={place.threads}:mem={megabytes}MB"}
    given = {"queue": place.queue, "account": place.account}
    cluster = make(
        cores=1,
        processes=1,
        memory=f"{megabytes} MB",
        walltime=place.walltime,
        death_timeout=PATIENCE,
        job_extra_directives=list(place.options),
        scheduler_options={"dashboard_address": DASHBOARD},
        **cpus,
        **{name: value for name, value in given.items() if value},
    )
    cluster.adapt(minimum=0, maximum=_said(place))
    return cluster


def _kubernetes(place: Place, need: float) -> Any:
    if not place.image:
        raise InputError("no container image is named", "Name one (--image), see containers/.")
    module = _module(*NEEDS[Kind.kubernetes])
    asked = {"memory": f"{math.ceil((place.memory or need) / 2**20)}Mi", "cpu": str(place.threads)}
    cluster = module.KubeCluster(
        name="dmrimicro",
        image=place.image,
        n_workers=0,
        resources={"requests": asked, "limits": asked},
        worker_command="dask worker --nthreads 1",
    )
    cluster.adapt(minimum=0, maximum=_said(place))
    return cluster


MAKERS = {Kind.local: _local, Kind.slurm: _queue, Kind.pbs: _queue, Kind.kubernetes: _kubernetes}


def _said(place: Place) -> int:
    if place.workers is None:
        raise InputError(
            f"on {place.cluster} nothing tells how many processes to start", "Say --workers N."
        )
    return place.workers


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free(limit: int) -> float:
    """Bytes of memory that are free; `limit` is what a container or a batch job may have."""
    import psutil

    return min(float(limit), float(psutil.virtual_memory().available))


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "") not in name:
            raise
        raise InputError(
            f"this needs the package {error.name}, which is not installed",
            f'Run: pip install "{package}"',
        ) from error
