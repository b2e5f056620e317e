"""Python packages that the library needs: looked up on Apply, installed if the user agrees."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from DMRIMicroLib.errors import DMRIMicroError

from .library import MODULE_FOLDER, PYTHON, PYTHON_TOO_OLD
from .words import _

REQUIREMENTS = MODULE_FOLDER / "Resources" / "requirements.txt"
REQUESTER = "DMRIMicro"
TORCH = ">=2.4"
OFFLINE = _(
    "Check the internet connection (a proxy or firewall may stop pip) and press Apply again."
)


class DependencyError(DMRIMicroError):
    """Something that the library needs is not there."""


def requirements(file: Path = REQUIREMENTS) -> list[str]:
    """Return the requirement lines of a file, without comments and pip options."""
    lines = (line.split(" #")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def missing(file: Path = REQUIREMENTS) -> list[str]:
    """Return the requirements that are not installed, or too old."""
    importlib.invalidate_caches()
    return [line for line in requirements(file) if not _satisfied(line)]


def torch_missing() -> bool:
    """Say whether PyTorch is absent or too old, without the seconds that importing it takes."""
    importlib.invalidate_caches()
    return importlib.util.find_spec("torch") is None or not _satisfied(f"torch{TORCH}")


def ensure(file: Path = REQUIREMENTS) -> bool:
    """Install what is missing after asking.

    Returns
    -------
    bool
        True if all is there, False if the user declined.

    Raises
    ------
    DependencyError
        With what to do, if something cannot be installed.
    """
    if sys.version_info < PYTHON:
        raise DependencyError(PYTHON_TOO_OLD)
    if torch_missing() and not _install_torch():
        return False
    if missing(file) and not _install(file):
        return False
    if left := missing(file):
        raise DependencyError(
            _("Still missing after installing: {missing}. Restart Slicer and press Apply.").format(
                missing=", ".join(left)
            )
        )
    return True


def _install_torch() -> bool:
    """Install PyTorch through Slicer's PyTorch extension, which picks the build for the driver."""
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _(
                "PyTorch (torch{torch}) is not installed, and neither is the PyTorch extension "
                "that installs it. Open View > Extensions Manager, install 'PyTorch', restart "
                "Slicer and press Apply."
            ).format(torch=TORCH)
        ) from error
    try:
        torch = _call_install_torch(PyTorchUtils.PyTorchUtilsLogic())
    except Exception as error:
        raise DependencyError(
            _("PyTorch could not be installed ({error}). {offline}").format(
                error=error, offline=OFFLINE
            )
        ) from error
    if torch is None:
        return False
    if torch_missing():  # an older one, perhaps held by Slicer as it runs
        raise DependencyError(
            _(
                "PyTorch is still missing or not torch{torch}. Restart Slicer and press Apply."
            ).format(torch=TORCH)
        )
    return True


def _call_install_torch(logic):
    try:
        return logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH)
    except TypeError:  # an extension from before it took a version
        return logic.installTorch(askConfirmation=True)


def _install(file: Path) -> bool:
    """Ask and install with Slicer's own tools; False if the user declined."""
    import slicer.util

    try:
        import slicer.packaging as packaging
    except ImportError:
        packaging = None  # before Slicer 5.11
    names = ", ".join(missing(file))
    question = _("{requester} needs these Python packages:\n\n{names}\n\nInstall them now?").format(
        requester=REQUESTER, names=names
    )
    try:
        if packaging is not None:
            packaging.pip_ensure(packaging.load_requirements(file), requester=REQUESTER)
        elif slicer.util.confirmOkCancelDisplay(question):
            slicer.util.pip_install(missing(file))
        else:
            return False
    except RuntimeError as error:
        if "declined" in str(error).lower():
            return False
        raise DependencyError(
            _("The packages could not be installed ({error}). {offline}").format(
                error=error, offline=OFFLINE
            )
        ) from error
    except Exception as error:
        raise DependencyError(
            _("The packages could not be installed ({error}). {offline}").format(
                error=error, offline=OFFLINE
            )
        ) from error
    return True


def _satisfied(line: str) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
