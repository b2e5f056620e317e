"""What `dmrimicro cohort` says while it runs and in the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .terminal import console

if TYPE_CHECKING:
    from .cohort.totals import Totals

SOME_FAILED = 3
"""Exit code where scans failed, in part or as a whole, or were not reached; all others are done."""

MOST_TOLD = 20
"""Failures that are printed; all are in the files."""


def so_far(totals: Totals) -> str:
    """Say how far a run has come."""
    rate = 60 * totals.done / max(totals.busy / max(1, totals.workers or 1), 1e-9)
    failed = f", {totals.partial} in part" if totals.partial else ""
    failed += f", {totals.failed} failed" if totals.failed else ""
    before = f", {totals.present} done before" if totals.present else ""
    return f"{totals.done} scans done{before}{failed}; about {rate:.1f} a minute and process"


def sum_up(totals: Totals, out: Path) -> None:
    """Say what came of the scans; scans that failed end in an exit code of their own."""
    for why, scans in totals.left_out.items():
        some = f"{', '.join(scans[:3])}{', ...' if scans[3:] else ''}"
        console.print(f"left out of {len(scans)} scans, {why} ({some})", style="dim")
    partial = f"{totals.partial} done in part, " if totals.partial else ""
    speed = totals.throughput()
    typer.echo(
        f"{totals.done} scans done in {totals.seconds:.0f} s by {totals.workers} processes, "
        f"{speed['scans_per_hour']:.0f} an hour; {totals.present} done before, "
        f"{partial}{totals.failed} failed, {totals.retried} tried again: {out}"
    )
    if totals.errors or totals.stopped:
        errors(totals)
        raise typer.Exit(SOME_FAILED)


def errors(totals: Totals) -> None:
    """Name what failed, and why no more was begun."""
    for outcome in totals.errors[:MOST_TOLD]:
        what = "failed in part" if outcome.status == "partial" else "failed"
        where = f"{outcome.file}: " if outcome.file else ""
        console.print(
            f"{what}: {outcome.key}: {where}{outcome.error}. {outcome.fix}".strip(), markup=False
        )
    if more := totals.errors[MOST_TOLD:]:
        console.print(f"... and {len(more)} more; the group level lists all")
    if totals.stopped:
        console.print(
            f"No more scans were started: {totals.stopped}. Those that are done stay; mend it and "
            "give the same command again.",
            markup=False,
        )
