"""Troubles of a cohort's run: killed processes, a full disk, bad inputs; BIDS' own validator."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from _common import ROOT, rounded

METHODS = "dti,noddi,smt,mapmri"

MIDDLE = 12
"""Scans that are done when something is killed."""

SMALL_DISK = 0.4
"""Of the room that all results need."""


@dataclass(frozen=True)
class Setting:
    """A data set, and what an undisturbed run made of it."""

    source: Path
    reference: dict[str, str]
    size: int = 0

    def command(
        self, out: Path, source: Path | None = None, workers: int = 2, methods: str = METHODS
    ) -> list[str]:
        """Return the command line of the participant level."""
        words = [source or self.source, out, "participant", "--methods", methods]
        words += ["--workers", workers, "--memory", "4GB"]
        fixed = [sys.executable, "-m", "DMRIMicroLib", "cohort"]
        return [*fixed, *map(str, words), "--progress", "none"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(words: list[str]) -> dict:
    """Run a command to its end."""
    started = time.perf_counter()
    ended = subprocess.run(words, capture_output=True, text=True, env=environment())
    said = ended.stdout.strip().splitlines()
    return {
        "exit": ended.returncode,
        "seconds": rounded(time.perf_counter() - started, 3),
        "said": re.sub(r": \S+$", "", said[-1]) if said else "",
        "errors": len([s for s in ended.stderr.splitlines() if s.startswith("failed: ")]),
        "stderr": ended.stderr,
    }


def told(ended: dict) -> dict:
    return {key: value for key, value in ended.items() if key != "stderr"}


def contents(out: Path) -> dict[str, str]:
    """Hash every file of the data set but the marks, which tell times."""
    found = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.is_file() and not name.startswith(".dmrimicro"):
            text = file.read_bytes()
            if name == "dataset_description.json":  # its link to the source depends on the place
                text = json.dumps({**json.loads(text), "DatasetLinks": None}).encode()
            found[name] = hashlib.sha256(text).hexdigest()
    return found


def marks(out: Path) -> dict[str, int]:
    """Return when each mark was written [ns]."""
    return {
        f"{file.parent.name} {file.stem}": file.stat().st_mtime_ns
        for file in out.glob(".dmrimicro/done/*/*.json")
    }


def scans_marked(out: Path) -> int:
    return len({mark.split()[0] for mark in marks(out)})


def twice(out: Path, before: dict[str, int]) -> int:
    """Count marks that are not those of before."""
    after = marks(out)
    return sum(after.get(mark) != when for mark, when in before.items())


def left_over(out: Path) -> int:
    """Count files of work that was not finished."""
    return len([f for f in out.rglob("*") if f.is_file() and "work" in f.relative_to(out).parts])


def against(out: Path, reference: dict[str, str]) -> dict:
    """Compare a data set with that of the undisturbed run."""
    found = contents(out)
    return {
        "files": len(found),
        "missing": len(set(reference) - set(found)),
        "more": len(set(found) - set(reference)),
        "different": sum(found[k] != reference[k] for k in set(found) & set(reference)),
        "left_over": left_over(out),
    }


def processes_of(parent: int) -> list[int]:
    """Return the process ids of Dask's workers under a client that was started here."""
    import psutil

    children = psutil.Process(parent).children(recursive=True)
    return [c.pid for c in children if "spawn_main" in " ".join(c.cmdline())]


def until(ready: Callable[[], bool], running: subprocess.Popen) -> None:
    while running.poll() is None and not ready():
        time.sleep(0.02)


def kill_a_worker(setting: Setting, out: Path) -> dict:
    """Kill one of two processes when some scans are done; the run goes on by itself."""
    client = subprocess.Popen(
        setting.command(out), env=environment(), stdout=subprocess.PIPE, text=True
    )
    until(lambda: scans_marked(out) >= MIDDLE, client)
    at, before = scans_marked(out), marks(out)
    victim = processes_of(client.pid)[-1]
    os.kill(victim, signal.SIGKILL)
    said = client.communicate()[0].strip().splitlines()
    (last,) = out.glob(".dmrimicro/runs/*.json")
    totals = json.loads(last.read_text())
    return {
        "killed_at_scan": at,
        "exit": client.returncode,
        "said": re.sub(r": \S+$", "", said[-1]),
        "done": totals["done"],
        "tried_again": totals["retried"],
        "marks_written_twice": twice(out, before),
        **against(out, setting.reference),
    }


def kill_the_client(setting: Setting, out: Path) -> dict:
    """Kill the client when some scans are done, and give the same command again."""
    client = subprocess.Popen(setting.command(out), env=environment())
    until(lambda: scans_marked(out) >= MIDDLE, client)
    workers = processes_of(client.pid)
    client.kill()
    client.wait()
    time.sleep(2)  # its processes see that it is gone
    import psutil

    survivors = [pid for pid in workers if psutil.pid_exists(pid)]
    before = marks(out)
    again = run(setting.command(out))
    return {
        "marks_at_kill": len(before),
        "processes_that_survived": len(survivors),
        "marks_written_twice": twice(out, before),
        "again": told(again),
        **against(out, setting.reference),
    }


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path | None]:
    """Give a file system in memory of so many bytes; None where mounting is not allowed."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place])
    try:
        yield place if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", place], check=True)


def fill_the_disk(setting: Setting, place: Path) -> dict:
    """Run where there is not room for all; make room, and give the same command again."""
    with small_disk(place, int(SMALL_DISK * setting.size)) as disk:
        if disk is None:
            return {"skipped": "mounting is not allowed here"}
        out = disk / "out"
        first = run(setting.command(out))
        before, whole = marks(out), contents(out)
        half = sum(whole.get(k) not in (None, v) for k, v in setting.reference.items())
        subprocess.run(["mount", "-o", f"remount,size={4 * setting.size}", disk], check=True)
        again = run(setting.command(out))
        return {
            "disk_bytes": int(SMALL_DISK * setting.size),
            "first": told(first),
            "told": "the disk is full" in first["stderr"],
            "scans_done_before": len({mark.split()[0] for mark in before}),
            "wrong_files_before": half,
            "marks_written_twice": twice(out, before),
            "again": told(again),
            **against(out, setting.reference),
        }


def corrupt_inputs(setting: Setting, folder: Path) -> dict:
    """Cut an image off, shorten b-values, lose a row of b-vectors; then mend them."""
    bad = folder / "raw"
    shutil.copytree(setting.source, bad)
    image, bval, bvec = (
        bad / f"sub-{k:02d}" / "dwi" / f"sub-{k:02d}_dwi{end}"
        for k, end in ((5, ".nii.gz"), (17, ".bval"), (29, ".bvec"))
    )
    image.write_bytes(image.read_bytes()[:2000])
    bval.write_text("0 1000 2000\n")
    bvec.write_text("".join(bvec.read_text().splitlines(keepends=True)[:2]))
    out = folder / "out"
    first = run(setting.command(out, bad))
    names = [f"sub-{k:02d}" for k in (5, 17, 29)]
    of_others = {k: v for k, v in setting.reference.items() if not k.startswith(tuple(names))}
    good = against(out, of_others)
    before = marks(out)
    for file in (image, bval, bvec):
        shutil.copy2(setting.source / file.relative_to(bad), file)
    again = run(setting.command(out, bad))
    return {
        "first": told(first),
        "named": [re.sub(r"/\S*/", "", s) for s in first["stderr"].splitlines() if "failed:" in s],
        "others": good,
        "again": told(again),
        "marks_written_twice": twice(out, before),
        **against(out, setting.reference),
    }


def validate(folder: Path) -> dict:
    """Run bids-validator, if it is there."""
    program = os.environ.get("DMRIMICRO_BIDS_VALIDATOR") or shutil.which("bids-validator-deno")
    if program is None:
        return {"skipped": "bids-validator-deno is not installed"}
    ended = subprocess.run(
        [program, "--format", "json", str(folder)], capture_output=True, text=True
    )
    found = json.loads(ended.stdout)["issues"]["issues"]
    severe = [issue for issue in found if issue.get("severity") == "error"]
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    return {
        "version": re.sub(r"\x1b\[\d+m", "", version).split()[-1] if version else "",
        "exit": ended.returncode,
        "errors": len(severe),
        "error_codes": sorted({issue["code"] for issue in severe}),
        "warning_codes": sorted({i["code"] for i in found if i.get("severity") == "warning"}),
    }
