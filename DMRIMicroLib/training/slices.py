"""Pools made by several processes at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..brain.ownscan import open_anatomy
from ..errors import Cancelled, InputError
from ..fitting.threads import one_thread_each
from .pool import PoolConfig, make_pool

LOOK = 0.5
"""Time between two looks at what is done [s]."""


def make_pool_side_by_side(
    folder: Path,
    anatomies: Sequence[str],
    slices: int,
    seed: int,
    workers: int,
    progress: Callable[[float, str], None] = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
    config: PoolConfig | None = None,
) -> list[Path]:
    """Make what is missing of a pool, see `make_pool`, by several processes.

    Parameters
    ----------
    folder, slices, seed, progress, config
        As of `make_pool`: how many processes there are changes nothing about the slices.
    anatomies : sequence of str
        Names, files or folders (`brain.ownscan.open_anatomy`).
    workers : int
        Processes; one works in this very process.
    cancelled : callable
        Asked now and then; True ends the processes. Slices that are whole stay.
    """
    if workers <= 1:

        def tell(share: float, text: str) -> None:
            progress(share, text)
            if cancelled():
                raise Cancelled("Stopped; the slices that are there stay.")

        with one_thread_each():  # fields of one slice are too small to be shared by threads
            opened = [open_anatomy(name) for name in anatomies]
            return make_pool(folder, opened, slices, seed, config, tell)
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    shares = [(folder, list(anatomies), slices, seed, config, k, workers) for k in range(workers)]
    running = [context.Process(target=_work, args=share, daemon=True) for share in shares]
    try:
        for process in running:
            process.start()
        while any(process.is_alive() for process in running):
            next(p for p in running if p.is_alive()).join(LOOK)
            done = len(list(folder.glob(f"slice-{seed}-*.safetensors")))
            progress(min(1.0, done / slices), f"{done} of {slices} slices")
            if cancelled():
                raise Cancelled("Stopped; the slices that are there stay.")
            _check(running)
        _check(running)
    finally:
        for process in running:
            if process.is_alive():
                process.terminate()
    return make_pool(folder, (), slices, seed)  # all are there: only their names


def _check(running: Sequence[multiprocessing.process.BaseProcess]) -> None:
    failed = [p.exitcode for p in running if p.exitcode]
    if failed:
        raise InputError(
            f"a process that makes slices ended with code {failed[0]}",
            "See what it said above; fewer processes (--workers) need less memory.",
        )


def _work(
    folder: Path,
    anatomies: list[str],
    slices: int,
    seed: int,
    config: PoolConfig | None,
    start: int,
    step: int,
) -> None:
    torch.set_num_threads(1)
    opened = [open_anatomy(name) for name in anatomies]
    make_pool(folder, opened, slices, seed, config, start=start, step=step)
