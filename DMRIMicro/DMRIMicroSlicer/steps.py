"""What comes before and after a fit or the network: preparing the signal, showing the maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .background import Steps
from .notes import fit_notes, tell
from .words import _

PREPARATIONS = ("noise", "denoise", "degibbs")
"""Options that `preprocess.prepare` takes; the others are those of the fit."""


def check_preparations(called: str, options: Mapping) -> None:
    """Refuse options of a fit, which a method of the network does not have."""
    if strangers := set(options) - set(PREPARATIONS):
        raise TypeError(
            f"{called} has no option {strangers.pop()!r}; there are {', '.join(PREPARATIONS)}"
        )


def prepared(scan, progress: Callable | None, preparations: Mapping):
    """Return the scan after the steps that were asked for, if any."""
    if not preparations:
        return scan
    from DMRIMicroLib.masking import brain_mask
    from DMRIMicroLib.preprocess import prepare

    return prepare(brain_mask(scan), progress=progress, **preparations)


def shows(
    show: Callable[[object], Steps],
    on_done: Callable[[list], None] | None,
    on_error: Callable[[str], None] | None,
    on_note: Callable[[str], None] | None,
    notes: Callable[[object], Iterable[str]] = fit_notes,
) -> Callable[[object], Steps]:
    """Return what shows a job's result, maps say, and tells what the user must know of it.

    `show` gives steps that end in the new nodes; so does what is returned, for the job.
    """

    def done(made) -> Steps:
        try:
            nodes = yield from show(made)
        except Exception as error:
            if on_error:
                on_error(_("The result cannot be shown: {error}").format(error=error))
            return
        tell(notes(made), on_note)
        if on_done:
            on_done(nodes)

    return done
