"""How long the parts of a training took, over all the runs that it needed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import staged
from ..training.recipe import RUN

TOOK = "took"
"""Field of `RUN`: it tells nothing that a result depends on."""


@dataclass(frozen=True)
class Clock:
    """Of the training in a folder, whose `RUN` is there.

    Attributes
    ----------
    folder : Path
    device : str
    """

    folder: Path
    device: str

    @contextmanager
    def part(self, name: str, done: Callable[[], int] | None = None) -> Iterator[None]:
        """Time a part of the work, also one that is stopped.

        Parameters
        ----------
        name : str
        done : callable, optional
            Counts examples, before and after: the throughput is kept, too.
        """
        began, before = time.monotonic(), done() if done else 0
        try:
            yield
        finally:
            seconds, count = time.monotonic() - began, (done() - before) if done else 0
            self._add(name, seconds, count)

    def _add(self, name: str, seconds: float, count: int) -> None:
        file = self.folder / RUN
        content = json.loads(file.read_text(encoding="utf-8"))
        told = content.setdefault(TOOK, {})
        told |= {"device": self.device, "threads": torch.get_num_threads()}
        part = told.setdefault(name, {"seconds": 0.0})
        part["seconds"] = round(part["seconds"] + seconds, 2)
        if count:
            part["examples"] = part.get("examples", 0) + count
            part["examples per second"] = round(part["examples"] / max(part["seconds"], 0.01), 3)
        with staged(self.folder) as stage:
            text = json.dumps(content, indent=2) + "\n"
            (stage / file.name).write_text(text, encoding="utf-8")
