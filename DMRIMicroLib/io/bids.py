"""Diffusion scans of a data set: BIDS (raw, QSIPrep and other derivatives) or the HCP's layout.

BIDS: K. J. Gorgolewski et al., Sci. Data 3 (2016) 160044, specification 1.11. HCP: M. F. Glasser et
al., NeuroImage 80 (2013) 105-124. QSIPrep: M. Cieslak et al., Nat. Methods 18 (2021) 775-778.

A reader of our own and not pybids: that indexes every file of a data set into a database before it
answers (minutes where there are thousands of subjects), and brings SQLAlchemy, pandas and formulaic
along. Here only folders of the subjects that are asked for are listed, when they are asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..scan import Scan

DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.11.0"

NIFTI = (".nii.gz", ".nii")

HCP_FOLDER, HCP_FOLDER_7T = Path("T1w") / "Diffusion", Path("T1w") / "Diffusion_7T"
HCP_IMAGE, HCP_MASK = "data", "nodif_brain_mask"

PREPROCESSED = "preproc"
"""Label of desc- that QSIPrep and the specification give to preprocessed scans."""

MS_PER_S = 1e3
"""BIDS writes times in seconds."""

TIMES = {"SmallDelta": "delta", "BigDelta": "Delta", "EchoTime": "TE"}
"""Fields of the sidecar, and the arguments of `Acquisition` that they give."""

ENTITY = re.compile(r"([a-zA-Z0-9]+)-([a-zA-Z0-9+]+)")


@dataclass(frozen=True)
class ScanFiles:
    """The files of one diffusion scan.

    Attributes
    ----------
    entities : dict of str to str
        Of the image's name, in their order, without ``desc``: ``{"sub": "01", "ses": "2"}``.
    image, bval, bvec : Path
    folder : Path
        Of the data set.
    mask : Path or None
        Of the brain, made by the preprocessing.
    sidecars : tuple of Path
        JSON files that tell of it, the most general first (BIDS' inheritance principle).
    timing : dict of str to float
        delta, Delta, TE [ms], as far as the sidecars say.
    """

    entities: dict[str, str]
    image: Path
    bval: Path
    bvec: Path
    folder: Path
    mask: Path | None = None
    sidecars: tuple[Path, ...] = ()
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the scan in its data set, e.g. ``sub-01_ses-2_run-1``."""
        return "_".join(f"{name}-{value}" for name, value in self.entities.items())

    @property
    def subject(self) -> str:
        """Label without ``sub-``."""
        return self.entities["sub"]

    @property
    def session(self) -> str | None:
        """Label without ``ses-``."""
        return self.entities.get("ses")

    @property
    def inputs(self) -> dict[str, Path]:
        """Every file that a result depends on, by what it is."""
        every = {"image": self.image, "bval": self.bval, "bvec": self.bvec}
        if self.mask is not None:
            every["mask"] = self.mask
        return every | {f"sidecar {k}": file for k, file in enumerate(self.sidecars)}

    def relative(self, file: Path) -> str:
        """Name a file within the data set."""
        return file.relative_to(self.folder).as_posix()

    def load(self, **options: Any) -> Scan:
        """Open the scan (`io.load`); options override what the sidecars say."""
        from .load import load

        given = {name: value for name, value in options.items() if value is not None}
        table = {"bval": self.bval, "bvec": self.bvec, "mask": self.mask}
        return replace(load(self.image, **(table | self.timing | given)), name=self.key)


def layout_of(folder: Path) -> str:
    """Tell "bids" from "hcp", or say what is wrong with the folder."""
    if not folder.is_dir():
        raise InputError("there is no such folder", "Check the path.", file=folder)
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    if any(name.startswith("sub-") for name in names):
        return "bids"
    if any((folder / name / HCP_FOLDER).is_dir() for name in names):
        return "hcp"
    raise InputError(
        f"neither sub-* folders (BIDS) nor */{HCP_FOLDER} (HCP) lie in it",
        "Give the folder of the data set itself.",
        file=folder,
    )


def subjects(folder: Path, layout: str) -> list[str]:
    """List the labels of the subjects, without ``sub-``, in natural order."""
    entries = (entry for entry in folder.iterdir() if entry.is_dir())
    if layout == "bids":
        labels = [e.name.removeprefix("sub-") for e in entries if e.name.startswith("sub-")]
    else:
        labels = [e.name for e in entries if (e / HCP_FOLDER).is_dir()]
    return sorted(labels, key=natural)


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Key to sort sub-2 before sub-10."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def scans_of(folder: Path, layout: str, subject: str) -> Iterator[ScanFiles | InputError]:
    """Yield every diffusion scan of a subject, or the error of one whose files are not complete."""
    if layout == "hcp":
        yield _or_error(_hcp_scan, folder, subject)
        return
    home = folder / f"sub-{subject}"
    images = [f for d in ("dwi", "ses-*/dwi") for e in NIFTI for f in home.glob(f"{d}/*_dwi{e}")]
    if preprocessed := [f for f in images if entities_of(f).get("desc") == PREPROCESSED]:
        images = preprocessed  # others are intermediate results, or the same scan in other steps
    for image in sorted(images, key=lambda f: natural(str(f.relative_to(home)))):
        # phases are no magnitudes; a scan without ``part`` is a magnitude
        if entities_of(image).get("part", "mag") == "mag":
            yield _or_error(_bids_scan, folder, image)


def sessions_of(
    folder: Path, layout: str, subject: str, labels: Sequence[str]
) -> tuple[ScanFiles, ...]:
    """Return a subject's scans of some sessions, or none if one is missing.

    Of the HCP's layout the sessions are 3T and 7T, which its pipeline brings into one space.

    Raises
    ------
    InputError
        If the files of a scan are not complete, or a session has two.
    """
    if layout == "hcp":
        homes = {"3T": HCP_FOLDER, "7T": HCP_FOLDER_7T}
        homes = [homes[s] for s in labels]
        if not all((folder / subject / home).is_dir() for home in homes):
            return ()
        return tuple(_hcp_scan(folder, subject, home) for home in homes)
    found: dict[str | None, ScanFiles] = {}
    for files in scans_of(folder, layout, subject):
        if isinstance(files, InputError):
            raise files
        if files.session in labels:
            if files.session in found:
                raise InputError(
                    f"sub-{subject} has two scans of ses-{files.session}",
                    "Put them together, or take one away.",
                    file=files.image,
                )
            found[files.session] = files
    return tuple(found[s] for s in labels) if len(found) == len(labels) else ()


def entities_of(file: Path) -> dict[str, str]:
    """Return the entities in a file's name, in their order."""
    found = (ENTITY.fullmatch(part) for part in file.name.split(".")[0].split("_"))
    return {match[1]: match[2] for match in found if match}


def inherited(folder: Path, image: Path, suffix: str, extension: str) -> list[Path]:
    """List the files that tell of an image, the most general first.

    A file applies if it lies in the image's folder or above, has the same suffix and no entity that
    the image has not (inheritance principle).
    """
    own = set(entities_of(image).items())
    levels = [image.parent, *image.parent.parents]
    levels = levels[: levels.index(folder) + 1] if folder in levels else [image.parent]
    found = []
    for level in reversed(levels):
        here = [
            f
            for f in (*level.glob(f"*_{suffix}{extension}"), *level.glob(f"{suffix}{extension}"))
            if set(entities_of(f).items()) <= own
        ]
        found += sorted(here, key=lambda f: (len(entities_of(f)), f.name))
    return found


def _or_error(read: Any, folder: Path, which: Any) -> ScanFiles | InputError:
    """Return the scan or its error: one bad subject must not hide the others."""
    try:
        return read(folder, which)
    except InputError as error:
        return error


def _bids_scan(folder: Path, image: Path) -> ScanFiles:
    entities, tables = entities_of(image), {}
    home = image.relative_to(folder).parts[0]
    if f"sub-{entities.get('sub')}" != home:
        raise InputError(
            f"lies in {home}, and its name does not begin so", "Rename it.", file=image
        )
    for extension in (".bval", ".bvec"):
        found = inherited(folder, image, "dwi", extension)
        if not found:
            raise InputError(
                f"no {extension[1:]} file belongs to it",
                f"Put one beside it, or name it as BIDS' inheritance principle does: dwi{extension}"
                " at the top for all.",
                file=image,
            )
        tables[extension[1:]] = found[-1]
    sidecars = tuple(inherited(folder, image, "dwi", ".json"))
    masks = {
        entities_of(f).get("desc"): f
        for e in NIFTI
        for f in image.parent.glob(f"*_desc-*_mask{e}")
        if _same_scan(entities, entities_of(f))
    }
    kept = {name: value for name, value in entities.items() if name != "desc"}
    return ScanFiles(
        kept,
        image,
        **tables,
        folder=folder,
        mask=masks.get("brain"),
        sidecars=sidecars,
        timing=_timing(sidecars),
    )


def _same_scan(image: dict[str, str], mask: dict[str, str]) -> bool:
    """Whether two files are of one scan: they differ in ``desc`` alone."""
    return {**image, "desc": ""} == {**mask, "desc": ""}


def _hcp_scan(folder: Path, subject: str, within: Path = HCP_FOLDER) -> ScanFiles:
    home = folder / subject / within
    image = _either(home, HCP_IMAGE)
    if image is None:
        raise InputError(f"there is no {HCP_IMAGE}.nii.gz", "Copy it again.", file=home)
    for name in ("bvals", "bvecs"):
        if not (home / name).exists():
            raise InputError(f"there is no {name}", "Copy it again.", file=home)
    label = "".join(c for c in subject if c.isalnum())  # what BIDS allows in a label
    entities = {"sub": label, "space": "T1w"}  # after the HCP's pipeline
    return ScanFiles(
        entities, image, home / "bvals", home / "bvecs", folder, mask=_either(home, HCP_MASK)
    )


def _either(folder: Path, stem: str) -> Path | None:
    return next((f for e in NIFTI if (f := folder / f"{stem}{e}").exists()), None)


def _timing(sidecars: tuple[Path, ...]) -> dict[str, float]:
    """Return the times [ms] that the sidecars tell, the most special one last."""
    told: dict[str, float] = {}
    for file in sidecars:
        content = read_json(file)
        for name, ours in TIMES.items():
            if isinstance(value := content.get(name), int | float):  # a list: differs by volume
                told[ours] = MS_PER_S * value
    return told


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"is not readable JSON ({error})", "Mend the file.", file=file) from error
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", "Mend the file.", file=file)
    return content
