"""Structures at risk in a process of its own: maps, lesion and bundles as files."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer

from DMRIMicroLib.errors import InputError

from .background import Steps
from .hierarchy import file_nodes
from .job import OUTPUT, FitJob
from .map_nodes import images_later
from .region_nodes import region_later
from .steps import shows
from .table_nodes import show_plan
from .tract_inputs import Maps
from .tract_nodes import lines_later
from .tract_worker import write_region
from .words import _
from .worker import start_worker

PAGE = "DMRIMicro.page"
"""Node attribute of the tables: the page that tells the same, to be printed."""

FORBIDDEN = r'[\\/:*?"<>|\x00-\x1f=]'
"""What names of files cannot hold everywhere."""


def start_plan(
    lesion: Any,
    bundles: Mapping[str, Any],
    maps: Maps,
    distance: float,
    *,
    metrics: Sequence[str] | None = None,
    rim: float = 5.0,
    images: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    on_progress: Callable[[float, str], None] | None,
    on_error: Callable[[str], None] | None,
    on_done: Callable[[list], None] | None,
    on_note: Callable[[str], None] | None,
) -> FitJob:
    """Plan in a child process and show the tables; see `BundleVerbs.startStructuresAtRisk`.

    Parameters
    ----------
    lesion : node or (node, str)
    bundles : dict of str to node
    maps : Maps
    distance, metrics, rim, images
        As of `BundleVerbs.structuresAtRisk`.
    folder : path-like, optional
        Of the page; next to the scene, or a new temporary one, by default.
    """
    if maps.maps is None:
        raise InputError(_("there are no maps"), _("Fit the tensor first, and choose it."))
    region, further = region_later(lesion), images_later(images)
    lines = {name: lines_later(node) for name, node in bundles.items()}
    wanted = Path(folder) if folder is not None else None
    beside, called, scan_name = scene_folder(), {}, maps.name

    def write(place: Path) -> list[str]:
        maps.settled(maps.maps).save(place / "source")
        found = region()
        called["lesion"] = found.name  # the worker reads it from a file, which may not be called so
        file = write_region(found, place / f"{file_name(found.name)}.nii")
        words = [str(place / "source"), file, "--out", str(place / OUTPUT)]
        for k, (name, read_lines) in enumerate(lines.items()):
            words += ["--tract", f"{name}={read_lines().save(place / f'bundle{k}.vtk')}"]
        for name, image in further(place).items():
            words += ["--file", f"{name}={image}"]
        words += ["--distance", str(distance), "--rim", str(rim)]
        return [*words, *(["--metrics", ",".join(metrics)] if metrics else [])]

    def read(made: Path):
        told = json.loads((made / "planning.json").read_text(encoding="utf-8"))
        page = keep(made, wanted or new_folder(beside, told["facts"]["lesion"]))
        return SimpleNamespace(
            facts=told["facts"] | called,
            notes=told["notes"],
            bundles=[SimpleNamespace(**one) for one in told["bundles"]],
            tissue=[SimpleNamespace(**one) for one in told["tissue"]],
            notice=told["notice"],
            page=page,
        )

    def show(plan) -> Steps:
        yield
        tables = show_plan(plan, plan.notice)
        for table in tables:
            table.SetAttribute(PAGE, str(plan.page))
        file_nodes(tables, scan_name)
        return tables

    return start_worker(
        "planning",
        write,
        read,
        progress=False,
        on_progress=on_progress,
        on_error=on_error,
        on_done=shows(show, on_done, on_error, on_note, lambda plan: [*plan.notes, plan.notice]),
    )


def scene_folder() -> Path | None:
    """Return the folder that the scene was saved in, or None."""
    file = slicer.mrmlScene.GetURL()
    place = Path(file).parent if file else None
    return place if place is not None and place.is_dir() else None


def new_folder(beside: Path | None, lesion: str) -> Path:
    """Make a folder for a page: next to the scene, or a temporary one; none is used twice."""
    if beside is None:
        return Path(tempfile.mkdtemp(prefix="dmrimicro-planning-"))
    number, name = 1, f"{file_name(lesion)} planning"
    while (place := beside / (name if number == 1 else f"{name} {number}")).exists():
        number += 1
    try:
        place.mkdir()
    except OSError:  # a scene on a medium that cannot be written
        return new_folder(None, lesion)
    return place


def keep(made: Path, folder: Path) -> Path:
    """Copy what the worker wrote into a folder; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("planning.json", "planning.html"):
        shutil.copyfile(made / file, folder / file)
    return folder / "planning.html"


def file_name(name: str) -> str:
    """Return a name with which a file can be called."""
    return re.sub(FORBIDDEN, "_", name).strip(" .") or "lesion"


def named(tracts: Any) -> dict[str, Any]:
    """Return bundles by name; of two nodes of one name, the later gets a number."""
    if isinstance(tracts, Mapping):
        return dict(tracts)
    nodes: Sequence = [tracts] if hasattr(tracts, "GetName") else list(tracts)
    found: dict[str, Any] = {}
    for node in nodes:
        name, number = node.GetName(), 2
        while name in found:
            name, number = f"{node.GetName()} {number}", number + 1
        found[name] = node
    return found
