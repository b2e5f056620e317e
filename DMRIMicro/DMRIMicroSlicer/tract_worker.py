"""Tracking in a process of its own: maps, seeds and regions as files, `dmrimicro tracts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .background import Steps
from .hierarchy import file_nodes
from .job import OUTPUT, FitJob
from .map_nodes import images_later, trimmed
from .region_nodes import region_later
from .steps import shows
from .tract_inputs import Maps, Tracking
from .tract_nodes import showing_lines
from .words import _
from .worker import start_worker

LINES = "lines.vtk"
"""What the worker writes: it holds any number of values along the lines."""

SWITCHES = {
    "odf": "--odf",
    "method": "--method",
    "step": "--step",
    "max_angle": "--max-angle",
    "min_length": "--min-length",
    "max_length": "--max-length",
    "seed": "--seed",
}
"""Command-line switches of `tract_inputs.OPTIONS`."""

ROLES = {"include": "--include", "exclude": "--exclude", "ends": "--ends"}


def start_tracts(
    maps: Maps,
    asked: Tracking,
    device: str | None,
    *,
    on_progress: Callable[[float, str], None] | None,
    on_error: Callable[[str], None] | None,
    on_done: Callable[[list], None] | None,
    on_note: Callable[[str], None] | None,
) -> FitJob:
    """Track in a child process and show the lines; see `TractVerbs.startTracts`."""
    regions, images = asked.regions_later(), images_later(asked.images)
    seed_words, scan, made = _seeds(maps, asked), asked.scan(), {}

    def write(folder: Path) -> list[str]:
        source = folder / "source"
        maps.settled(trimmed(maps.maps, asked.names())).save(source)
        words = [str(source), "--out", str(folder / OUTPUT / LINES), "--inside", asked.inside]
        words += seed_words(folder)
        for name, file in images(folder).items():
            words += ["--file", f"{name}={file}"]
        made.update({role: [region() for region in given] for role, given in regions.items()})
        for role, given in made.items():
            for k, region in enumerate(given):
                words += [ROLES[role], write_region(region, folder / f"{role}{k}.nii")]
        for name, value in asked.options.items():
            words += [SWITCHES[name], str(value)] if value is not None else []
        if kept := asked.kept():
            words += ["--along", ",".join(kept)]
        if scan is not None:
            words += ["--scan", _scan(scan, folder)]
        return words

    def read(folder: Path):
        from DMRIMicroLib.tracts.storage import load

        lines = load(folder / LINES)
        called = {role: [region.name for region in given] for role, given in made.items()}
        return replace(lines, provenance=lines.provenance | called)

    def show(lines) -> Steps:
        look = maps.looks.get(asked.colour_by)
        node = yield from showing_lines(lines, f"{maps.name} tracts", look, asked.colour_by)
        file_nodes([node], maps.name)
        return [node]

    return start_worker(
        "tracts",
        write,
        read,
        device=device,
        on_progress=on_progress,
        on_error=on_error,
        on_done=shows(show, on_done, on_error, on_note, _notes),
    )


def _notes(lines) -> Sequence[str]:
    """Say what the user must know of lines."""
    if len(lines):
        told = _("{number} lines; a bundle that was not found may be there all the same")
        return [told.format(number=len(lines))]
    return [_("no line was found: loosen the rules, the regions or the least length")]


def _seeds(maps: Maps, asked: Tracking) -> Callable[[Path], list[str]]:
    """Return what gives the words of the seeds: a rule is worked out there, points are written."""
    if not asked.by_rule:
        from DMRIMicroLib.tracts.seeds import Seeds

        seeds = Seeds(np.asarray(asked.points(maps)))
        return lambda folder: ["--seeds", str(seeds.save(folder / "seeds.csv"))]
    within = None if asked.within is None else region_later(asked.within)

    def words(folder: Path) -> list[str]:
        given = ["--seeds", asked.seeds]
        if within is not None:
            given += ["--within", write_region(within(), folder / "within.nii")]
        for switch, value in (("--density", asked.density), ("--count", asked.count)):
            given += [switch, str(value)] if value is not None else []
        return given

    return words


def write_region(region, file: Path) -> str:
    """Write a region as an image; return its file."""
    import nibabel as nib

    nib.save(nib.Nifti1Image(region.inside.astype(np.uint8), region.affine), file)
    return str(file)


def _scan(scan, folder: Path) -> str:
    """Write the scan for deconvolution; its b0 volumes get b = 0: the verb takes no threshold."""
    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.io import nifti

    acquisition = scan.acquisition
    bvals = np.where(acquisition.is_b0, 0.0, acquisition.bvals)
    plain = replace(scan, acquisition=Acquisition(bvals, acquisition.bvecs), mask=None)
    return str(nifti.save(plain, folder / "scan.nii"))
