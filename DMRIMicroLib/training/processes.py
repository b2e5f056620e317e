"""Training by several processes: which one this is, its examples, and what all of them agree on."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DDP = "ddp"
"""Lightning's name of the strategy: a copy of the network in every process, gradients averaged
(S. Li et al., "PyTorch Distributed: Experiences on accelerating data parallel training", Proc. VLDB
Endow. 13 (2020) 3005-3018)."""

LAUNCHERS = (
    ("WORLD_SIZE", lambda told: (int(told["LOCAL_WORLD_SIZE"]), int(told["WORLD_SIZE"]))),
    ("SLURM_STEP_NUM_TASKS", lambda told: _of_slurm(told)),
)
"""What torchrun and srun tell each process: processes of a node, and of all nodes."""


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return processes of a node and nodes, as torchrun or srun started them; 1 and 1 without.

    A batch script of SLURM that starts one process without srun has many tasks and one process: the
    step's number of tasks counts, not the job's.
    """
    for name, read in LAUNCHERS:
        if environment.get(name, "1") != "1":
            local, world = read(environment)
            return local, world // local
    return 1, 1


def _of_slurm(told: Mapping[str, str]) -> tuple[int, int]:
    world = int(told["SLURM_STEP_NUM_TASKS"])
    nodes = int(told.get("SLURM_STEP_NUM_NODES", "1"))
    if world % nodes:
        raise InputError(
            f"SLURM runs {world} processes on {nodes} nodes", "Give every node as many."
        )
    return world // nodes, world


@dataclass(frozen=True)
class Crew:
    """The processes of a training.

    Attributes
    ----------
    fabric : Fabric
    rank, world : int
        Number of this process, and how many there are.
    """

    fabric: Fabric
    rank: int
    world: int

    @classmethod
    def of(cls, fabric: Fabric, batch: int) -> Crew:
        """Start together; a step's examples must be shared out evenly."""
        fabric.launch()
        if batch % fabric.world_size:
            raise InputError(
                f"{batch} examples a step cannot be shared by {fabric.world_size} processes",
                "Start as many processes as divide it.",
            )
        return cls(fabric, fabric.global_rank, fabric.world_size)

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def own(self, examples: Callable[..., Iterator[Any]], first: int) -> Iterator[Any]:
        """Yield this process's examples: number first + rank, and every world-th after it.

        A stream that takes ``step`` makes only these. Of another all are made, and the others'
        thrown away: right, but no faster than one process.
        """
        if self.world == 1:
            return examples(first)
        if "step" in inspect.signature(examples).parameters:
            return examples(first + self.rank, step=self.world)
        return islice(examples(first), self.rank, None, self.world)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients over the processes: one message, in the order of the parameters.

        Not left to DDP's own hooks: a loss that uses a parameter beside the network's forward pass
        (kernels of the codebook), or not at all (ablations), breaks their count.
        """
        if self.world == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        # unused here, a parameter may still be used in another process; used nowhere, it must stay
        # without a gradient, or its weight would decay
        used = torch.tensor([float(p.grad is not None) for p in wanted], device=wanted[0].device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        flat = torch.cat([part.reshape(-1) for part in (used, *parts)])
        flat = self.fabric.all_reduce(flat, reduce_op="mean")
        used, *parts = flat.split([len(wanted), *(p.numel() for p in wanted)])
        for p, part, by in zip(wanted, parts, used.tolist(), strict=True):
            p.grad = part.view_as(p).clone() if by else None

    def average(self, told: Mapping[str, float]) -> dict[str, float]:
        """Average what each process has to say, number by number."""
        if self.world == 1 or not told:
            return dict(told)
        values = torch.tensor(list(told.values()), dtype=torch.float64, device=self.fabric.device)
        values = self.fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(told, values.tolist(), strict=True))

    def any(self, asked: bool) -> bool:
        """Tell whether any process was asked: one that stopped alone would leave others waiting."""
        if self.world == 1:
            return asked
        told = torch.tensor(float(asked), device=self.fabric.device)
        return bool(self.fabric.all_reduce(told, reduce_op="sum") > 0)
