"""Work in a process of its own: the window stays alive, Cancel ends it, a crash stays outside.

A job has four parts: its input is written (in a thread), its process runs, the output is read (in a
thread), the result is shown bit by bit. `poll`, which the caller's timer calls, moves it on and
tells the progress, which is read from a file: no thread touches MRML.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .background import Background
from .job_base import Job
from .process import WorkerError, begin, complaint, kill_tree, sentences
from .words import _

OUTPUT = "maps"
"""Folder in that of a job where the worker puts what it made."""


class FitJob(Job):
    """One fit in a child process.

    Parameters
    ----------
    command : sequence of str
        What to run; it prints one JSON object a line: ``{"progress": 0.42, "text": "..."}``.
    folder : Path
        The job's own temporary folder; it is removed when the job is over.
    read : callable
        Called with the output folder (``folder / OUTPUT``) when the process ended well, in a
        thread: it must leave MRML, VTK and Qt alone.
    write : callable, optional
        Called with the folder before the process is started, in a thread like `read`: puts the
        input there and returns further words of the command.
    env : dict, optional
        Environment of the process.
    **callbacks
        on_progress, on_done, on_error, see `job_base.Job`.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        read: Callable[[Path], object],
        *,
        write: Callable[[Path], Sequence[str]] | None = None,
        env: dict[str, str] | None = None,
        **callbacks: Callable | None,
    ) -> None:
        super().__init__(**callbacks)
        self.folder, self._read, self._env = Path(folder), read, env
        self._seen, self._said = 0, sentences()
        self._process: subprocess.Popen | None = None
        if write is None:
            try:
                self._start(command)
            except BaseException:
                self._clean()
                raise
            self._part = self._run
        else:
            self._behind = Background(lambda: self._start([*command, *write(self.folder)]))
            self._part = self._write

    @property
    def _out(self) -> Path:
        return self.folder / "stdout.txt"

    @property
    def _err(self) -> Path:
        return self.folder / "stderr.txt"

    # The parts of a job

    def _write(self) -> None:
        """Wait for the thread that writes the input and starts the process."""
        if not self._behind.over():
            return
        try:
            self._behind.result()
        except OSError as error:
            self._lose(error)
        except Exception as error:
            self._fail(str(error))
        else:
            self._part = self._run

    def _run(self) -> None:
        """Tell the process's news, and see whether it has ended."""
        code = self._process.poll()  # asked before reading, so that no last line is missed
        try:
            news = self._news()
        except OSError as error:
            self._lose(error)
            return
        for fraction, text in news:
            if not self._hear(fraction, text):
                return
        if code is not None:
            self._behind = Background(lambda: self._result(code))
            self._part = self._receive

    # What they need; `_start` and `_result` are called in a thread

    def _start(self, command: Sequence[str]) -> None:
        self._process = begin(command, self._out, self._err, self._env, self._said)

    def _result(self, code: int) -> object:
        try:
            if code:
                raise WorkerError(complaint(code, self._err, self._said))
            try:
                return self._read(self.folder / OUTPUT)
            except Exception as error:
                raise WorkerError(self._said["result"].format(error=error)) from error
        finally:
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
        """End a job whose folder is gone or full, which no later look could mend."""
        self._fail(
            _(
                "The temporary folder of the fit cannot be used any more ({error}). Free some "
                "space and press Apply again; if something empties the temporary folder, let it "
                "spare {folder}."
            ).format(error=error, folder=self.folder.parent)
        )

    def _stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            kill_tree(self._process)

    def _clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
