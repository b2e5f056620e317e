"""What became of all tasks of a run, and how fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..errors import InputError
from ..version import __version__
from . import state
from .jobs import Outcome


@dataclass
class Totals:
    """What became of all tasks.

    Attributes
    ----------
    done, present, partial, failed, retried : int
        Present: done before. Partial: done but for some methods. Retried: attempts beyond the
        first.
    stopped : str
        Why no more were handed out; empty if all were.
    seconds, busy : float
        On the clock; and of all tasks together, in their processes.
    workers : int
        Processes, at most.
    voxels : int
    most_ahead : int
        Tasks that the scheduler knew at a time, at most.
    errors : list of Outcome
        Of what failed, in part or as a whole.
    left_out : dict of str to list
        By method and reason: names of scans.
    """

    done: int = 0
    present: int = 0
    partial: int = 0
    failed: int = 0
    retried: int = 0
    stopped: str = ""
    seconds: float = 0.0
    busy: float = 0.0
    workers: int = 0
    voxels: int = 0
    most_ahead: int = 0
    errors: list[Outcome] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> None:
        """Take in how a task ended."""
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        self.busy += outcome.seconds
        self.voxels += outcome.voxels
        if outcome.lacks:
            self.errors.append(outcome)
        self._leave_out(outcome)

    def retry(self, outcome: Outcome) -> None:
        """Take in an attempt that another one follows: that will not tell of what is done."""
        self.retried += 1
        self._leave_out(outcome)

    def _leave_out(self, outcome: Outcome) -> None:
        for method, why in outcome.left_out.items():
            self.left_out.setdefault(f"{method}: {why}", []).append(outcome.key)

    @property
    def ended(self) -> int:
        """Tasks that came to an end, good or bad."""
        return self.done + self.present + self.partial + self.failed

    def throughput(self) -> dict[str, float]:
        """Return scans an hour, and what a scan costs beside its own work."""
        worked = self.done + self.partial + self.failed
        share = self.seconds * max(1, self.workers)
        return {
            "scans_per_hour": round(3600 * self.done / max(self.seconds, 1e-9), 1),
            "voxels_per_second": round(self.voxels / max(self.seconds, 1e-9)),
            "busy_share": round(self.busy / max(share, 1e-9), 3),
            "overhead_per_scan_s": round(max(0.0, share - self.busy) / max(1, worked), 3),
        }


def keep_run(out: Path, totals: Totals) -> Path:
    """Write what a run came to; return the file."""
    now = datetime.now(UTC)
    content = {k: v for k, v in asdict(totals).items() if k != "errors"}
    content |= {"version": __version__, "ended": now.isoformat(timespec="seconds")}
    for status in ("partial", "failed"):
        found = [outcome.key for outcome in totals.errors if outcome.status == status]
        content[f"{status}_scans"] = found
    content |= {"throughput": totals.throughput()}
    file = out / state.STATE / state.RUNS / f"{now:%Y%m%dT%H%M%S.%f}.json"
    try:
        state.write_atomically(file, content)
    except OSError as error:
        if not state.out_of_room(error):
            raise InputError(f"cannot be written ({error})", "See who may.", file=file) from error
    return file
