#!/usr/bin/env python3
"""One command from a fresh clone: python3 run.py demo | test | lint | bench NAME.

Needs Python 3.11 or newer and nothing else; sets up a virtual environment in the checkout first.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
INPUTS = [
    "pyproject.toml",
    "constraints.txt",
    "requirements-host.txt",
    "requirements-train.txt",
    "requirements-cohort.txt",
    "DMRIMicro/Resources/requirements.txt",
    "Testing/requirements.txt",
]
DEMO = ["-m", "DMRIMicroLib", "demo", "--out", str(ROOT / "demo-output")]
USAGE = "usage: python3 run.py demo | test [pytest options] | lint | bench NAME [options]"


def prepare(extra: str) -> None:
    """Install what the task needs, once for each state of the requirement files."""
    key = hashlib.sha256(b"".join((ROOT / f).read_bytes() for f in INPUTS)).hexdigest()
    stamps = {name: VENV / f"ready-{name}" for name in ("demo", "test")}
    wanted = [stamps["test"]] if extra == "test" else list(stamps.values())
    if PYTHON.exists() and any(s.exists() and s.read_text() == key for s in wanted):
        return
    print(f"Setting up {VENV} ...", file=sys.stderr, flush=True)
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    target = f"{ROOT}[test]" if extra == "test" else str(ROOT)
    pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    code = subprocess.run([*pip, "-c", ROOT / "constraints.txt", "-e", target]).returncode
    if code:
        sys.exit(f"The packages could not be installed (pip ended with {code}): see above.")
    stamps[extra].write_text(key)


def steps(task: str, options: list[str]) -> list[list[str]]:
    """Return the Python command lines of a task."""
    if task == "demo":
        return [[*DEMO, *options]]
    if task == "test":
        return [["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *options]]
    if task == "lint":
        return [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]]
    names = sorted(f.stem for f in (ROOT / "benchmarks").glob("[a-z]*.py"))
    if task == "bench" and options and options[0] in names:
        return [[str(ROOT / "benchmarks" / f"{options[0]}.py"), *options[1:]]]
    sys.exit(f"{USAGE}\nbenchmarks: {', '.join(names)}")


def main() -> None:
    """Run the task that the command line names."""
    if sys.version_info < (3, 11):  # noqa: UP036 - told in words, not by a SyntaxError later
        sys.exit(f"DMRIMicro needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    if len(sys.argv) < 2 or sys.argv[1] not in ("demo", "test", "lint", "bench"):
        sys.exit(USAGE)
    task, commands = sys.argv[1], steps(sys.argv[1], sys.argv[2:])
    prepare("demo" if task == "demo" else "test")
    for command in commands:
        code = subprocess.run([PYTHON, *command], cwd=ROOT).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
