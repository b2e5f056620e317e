"""Work in a process of its own: the window stays alive, Cancel ends it, a crash stays outside.

Progress is read from a file by `poll`, which the caller's timer calls: no thread touches MRML.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from DMRIMicroLib.errors import DMRIMicroError

KILL_SECONDS = 1.5
"""How long to wait for a killed process to be gone."""

OUTPUT = "maps"
"""Folder in that of a job where the worker puts what it made."""

ERROR_LINES = 6
"""Last lines of the worker's complaint that are shown."""


class WorkerError(DMRIMicroError):
    """The fit ended badly in its process."""


class FitJob:
    """One fit in a child process.

    Parameters
    ----------
    command : sequence of str
        What to run; it prints one JSON object a line: ``{"progress": 0.42, "text": "..."}``.
    folder : Path
        The job's own temporary folder; it is removed when the job is over.
    read : callable
        Called with the output folder (``folder / OUTPUT``) when the process ended well.
    on_progress : callable(fraction, text), optional
    on_done : callable(result of `read`), optional
    on_error : callable(text), optional
    env : dict, optional
        Environment of the process.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        read: Callable[[Path], object],
        *,
        on_progress: Callable[[float, str], None] | None = None,
        on_done: Callable[[object], None] | None = None,
        on_error: Callable[[str], None] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder, self._read = Path(folder), read
        self._on_progress, self._on_done, self._on_error = on_progress, on_done, on_error
        self.state = "running"
        self._seen = 0
        try:
            with open(self._out, "wb") as out, open(self._err, "wb") as err:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=env,
                    **_own_group(),
                )
        except OSError as error:
            self._clean()
            raise WorkerError(
                f"{command[0]} cannot be started ({error}). Install the module again."
            ) from error

    @property
    def _out(self) -> Path:
        return self.folder / "stdout.txt"

    @property
    def _err(self) -> Path:
        return self.folder / "stderr.txt"

    def poll(self) -> str:
        """Deliver news to the callbacks; return "running", "done", "failed" or "cancelled"."""
        if self.state != "running":
            return self.state
        code = self._process.poll()  # asked before reading, so that no last line is missed
        try:
            news = self._news()
        except OSError as error:
            self._lose(error)
            return self.state
        for fraction, text in news:
            if self._on_progress:
                self._on_progress(fraction, text)
            if self.state != "running":  # the callback has cancelled
                return self.state
        if code is not None:
            self._finish(code)
        return self.state

    def cancel(self) -> None:
        """Kill the process and its children; nothing reaches the scene."""
        if self.state == "running":
            self.state = "cancelled"
            _kill_tree(self._process)
            self._clean()

    def _news(self) -> list[tuple[float, str]]:
        """Return the progress lines that are complete and not yet told."""
        with open(self._out, "rb") as file:
            file.seek(self._seen)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._seen += len(complete)
        news = []
        for line in complete.decode("utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
                news.append((float(event["progress"]), str(event.get("text", ""))))
            except (ValueError, TypeError, KeyError):
                continue  # other packages print, too
        return news

    def _lose(self, error: OSError) -> None:
        """End a job whose folder is gone, which no later look could mend."""
        self.state = "failed"  # first: a callback may run the timer's loop, which polls again
        _kill_tree(self._process)
        self._clean()
        if self._on_error:
            self._on_error(
                f"The temporary folder of the fit cannot be read any more ({error}). "
                "Press Apply again; if something empties the temporary folder, let it spare "
                f"{self.folder.parent}."
            )

    def _finish(self, code: int) -> None:
        try:
            result = self._read(self.folder / OUTPUT) if code == 0 else None
            problem = None if code == 0 else self._complaint(code)
        except Exception as error:
            problem = f"The fit ended, but its result cannot be used: {error}"
        finally:
            self._clean()
        self.state = "done" if problem is None else "failed"
        if problem is not None and self._on_error:
            self._on_error(problem)
        elif problem is None and self._on_done:
            self._on_done(result)

    def _complaint(self, code: int) -> str:
        lines = self._err.read_text("utf-8", errors="replace").strip().splitlines()[-ERROR_LINES:]
        if code < 0 or not lines:
            what = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = (
                " Perhaps memory ran out: give a mask or close other programs."
                if code == -9
                else ""
            )
            lines.insert(0, f"The worker process {what}.{hint}")
        return "\n".join(lines)

    def _clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _own_group() -> dict:
    """Have the process killed with its children, and show no console window."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _kill_tree(process: subprocess.Popen) -> None:
    if os.name == "nt":
        # TerminateProcess would leave the children of PythonSlicer, which is only a launcher
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False
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
