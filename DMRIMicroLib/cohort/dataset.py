"""Which scans of a data set are meant: participants and sessions picked, what is broken named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..io.bids import NIFTI, ScanFiles, layout_of, scans_of, subjects


@dataclass(frozen=True)
class Unusable:
    """A scan that cannot be worked on, and why.

    Attributes
    ----------
    key : str
        As of `ScanFiles`, as far as it is known.
    error : InputError
    """

    key: str
    error: InputError


@dataclass(frozen=True)
class Dataset:
    """A folder of scans, in part or as a whole; nothing but folder names is read to open it.

    Attributes
    ----------
    folder : Path
    layout : {"bids", "hcp"}
    participants : tuple of str
        Labels without ``sub-``, in natural order.
    sessions : tuple of str
        Labels without ``ses-``; empty for all.
    """

    folder: Path
    layout: str
    participants: tuple[str, ...]
    sessions: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, folder: str | Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()
    ) -> Dataset:
        """Open a data set, BIDS (raw or derivative) or HCP.

        Parameters
        ----------
        folder : path
            Of the data set itself: the derivatives of QSIPrep are one of their own.
        participants, sessions : sequence of str
            Labels with or without ``sub-`` and ``ses-``; none for all.

        Raises
        ------
        InputError
            If it is neither layout, or has no such participant.
        """
        folder = Path(folder)
        layout = layout_of(folder)
        there = subjects(folder, layout)
        wanted = [label.removeprefix("sub-") for label in participants]
        if lacking := [label for label in wanted if label not in there]:
            raise InputError(
                f"there is no participant {', '.join(lacking)}",
                f"There are {len(there)}: {', '.join(there[:5])}{', ...' if there[5:] else ''}.",
                file=folder,
            )
        chosen = [label for label in there if label in set(wanted)] if wanted else there
        parts = tuple(label.removeprefix("ses-") for label in sessions)
        return cls(folder, layout, tuple(chosen), parts)

    def scans(self) -> Iterator[ScanFiles | Unusable]:
        """Yield every scan that is meant, participant by participant.

        Participants without a diffusion scan are passed over; two images that say that they are the
        same scan are broken, both of them.
        """
        for label in self.participants:
            found = [self._named(one, label) for one in scans_of(self.folder, self.layout, label)]
            keys = [one.key for one in found]
            for one in found:
                if not self._meant(one):
                    continue
                if keys.count(one.key) > 1 and isinstance(one, ScanFiles):
                    error = InputError(
                        f"there are {keys.count(one.key)} images of this scan",
                        "Leave one, or tell them apart by run-1 and run-2.",
                        file=one.image,
                    )
                    yield Unusable(one.key, error)
                else:
                    yield one

    def check(self) -> None:
        """Refuse a choice without any scan, and a session that none is of: slips in a label.

        They would pass as work that is done.
        """
        lacking = list(self.sessions)
        for one in self.scans():
            lacking = [label for label in lacking if not _is_of(one, label)]
            if not lacking:
                return
        chosen = f" of session {', '.join(lacking)}" if lacking else ""
        raise InputError(
            f"there is no diffusion scan{chosen} of the {len(self.participants)} participants",
            "Check --session and --participant-label."
            if self.layout == "bids" and self.sessions
            else "Scans are looked for as sub-*/[ses-*/]dwi/*_dwi.nii.gz.",
            file=self.folder,
        )

    def sample(self, count: int) -> list[ScanFiles]:
        """Return about so many scans, of participants that are spread over all."""
        step = max(1, len(self.participants) // count)
        some = replace(self, participants=self.participants[::step])
        return [one for one in some.scans() if isinstance(one, ScanFiles)]

    def _named(self, one: ScanFiles | InputError, label: str) -> ScanFiles | Unusable:
        if isinstance(one, ScanFiles):
            return one
        name = Path(one.file).name if one.file else ""
        stem = name.removesuffix(NIFTI[0]).removesuffix(NIFTI[1]).removesuffix("_dwi")
        return Unusable(stem if stem.startswith("sub-") else f"sub-{label}", one)

    def _meant(self, one: ScanFiles | Unusable) -> bool:
        return not self.sessions or any(_is_of(one, label) for label in self.sessions)


def _is_of(one: ScanFiles | Unusable, session: str) -> bool:
    if isinstance(one, ScanFiles):
        return one.session == session
    return f"ses-{session}" in one.key.split("_")
