"""Batches side by side on the CPU's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

import torch

_lock = Lock()
_users = 0
_threads_before = 1


def in_threads(
    work: Callable[[int], int], starts: Sequence[int], device: torch.device
) -> Iterator[int]:
    """Run batches side by side on the CPU's threads, each on one thread; yield them in order.

    One thread a batch, because the operations inside are too small to share: with another
    program busy on one core, sharing them was measured to be 60 times slower. Inference mode, which
    belongs to a thread, is that of the caller: tensors made in it cannot be written to outside.
    """
    if device.type != "cpu":
        yield from map(work, starts)
        return
    inference = torch.is_inference_mode_enabled()

    def alike(start: int) -> int:
        with torch.inference_mode(inference):
            return work(start)

    with one_thread_each() as threads:
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            side_by_side = threads > 1 and len(starts) > 1
            yield from pool.map(alike, starts) if side_by_side else map(work, starts)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Have torch's operations use one thread; yield how many there were.

    The setting is the process's: it returns when the last of several concurrent fits ends.
    """
    global _users, _threads_before
    with _lock:
        if not _users:
            _threads_before = torch.get_num_threads()
            torch.set_num_threads(1)
        _users += 1
    try:
        yield _threads_before
    finally:
        with _lock:
            _users -= 1
            if not _users:
                torch.set_num_threads(_threads_before)
