"""A child process: begun so that it can be ended with its children."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from DMRIMicroLib.errors import DMRIMicroError

from .words import _

KILL_SECONDS = 1.5
"""How long to wait for a killed process to be gone."""

ERROR_LINES = 6
"""Last lines of the worker's complaint that are shown."""


class WorkerError(DMRIMicroError):
    """The fit ended badly in its process."""


def sentences() -> dict[str, str]:
    """Return what may have to be said of a process; for the main thread, see `words`."""
    return {
        "start": _("{program} cannot be started ({error}). Install the module again."),
        "signal": _("The worker process was ended by signal {number}."),
        "code": _("The worker process ended with code {number}."),
        "memory": _("Perhaps memory ran out: give a mask or close other programs."),
        "result": _("The fit ended, but its result cannot be used: {error}"),
    }


def begin(
    command: Sequence[str],
    out_file: Path,
    err_file: Path,
    env: dict[str, str] | None,
    said: Mapping[str, str],
) -> subprocess.Popen:
    """Start a process that writes into two files; `said` are the `sentences`."""
    with open(out_file, "wb") as out, open(err_file, "wb") as err:
        try:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=env,
                **_own_group(),
            )
        except OSError as error:
            raise WorkerError(said["start"].format(program=command[0], error=error)) from error


def kill_tree(process: subprocess.Popen) -> None:
    """End a process and its children, and wait until it is gone."""
    if os.name == "nt":
        # TerminateProcess would leave the children of PythonSlicer, which is only a launcher
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)],
            capture_output=True,
            check=False,
            creationflags=subprocess.CREATE_NO_WINDOW,
        )
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        pass  # held by a driver; the system ends it


def complaint(code: int, err_file: Path, said: Mapping[str, str]) -> str:
    """Return the last words of a process that ended badly; `said` are the `sentences`."""
    lines = err_file.read_text("utf-8", errors="replace").strip().splitlines()[-ERROR_LINES:]
    if code < 0 or not lines:
        what = said["signal" if code < 0 else "code"].format(number=abs(code))
        lines.insert(0, f"{what} {said['memory']}" if code == -9 else what)
    return "\n".join(lines)


def _own_group() -> dict:
    """Have the process killed with its children, and show no console window."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
