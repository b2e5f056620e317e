"""Maps as BIDS derivatives: names, sidecars, and what a data set says of itself.

BIDS specification 1.11, "Derivatives", and the draft of its extension 16 for models of diffusion
(``model-`` and ``param-`` of ``dwimap`` files). The specification has not taken ``dwimap`` up yet,
so that ``.bidsignore`` names these files; all others are valid without.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import staged
from ..index import INDEX, read_index
from ..io import nifti
from ..io.bids import BIDS_VERSION, DESCRIPTION, MS_PER_S, PREPROCESSED, TIMES, ScanFiles, read_json
from ..maps import MapSet
from ..metric import Flag
from ..version import __version__

if TYPE_CHECKING:
    from ..rish.result import Enhanced

SOFTWARE = "DMRIMicro"

SOURCE = "source"
"""Name of the input data set in ``bids:`` URIs."""

NEW_GRID = "enhanced"
"""Label of ``res-`` of a scan that was brought to other voxels."""

IGNORED = ("*_dwimap.nii.gz", "*_dwimap.json", "*_desc-preproc_dwi.bv*", "group")
"""What of our output the specification does not know, and b-values and b-vectors of derivatives,
which its schema (1.2.1) has no rule for."""

README = """# Maps of diffusion microstructure

Made by DMRIMicro {version} (`dmrimicro cohort`). Research use only. Not a medical device.

`*_model-MODEL_param-METRIC_dwimap.nii.gz` are maps, `desc-sd` their standard deviations;
`*_desc-MODELflags_dseg.nii.gz` say what to think of each voxel; `*_desc-brain_mask.nii.gz` is where
maps were made. Maps are 0 where there is no answer. `*_res-enhanced_desc-preproc_dwi.nii.gz` is a
scan as a better scanner might have made it. `group/` has tables of all scans together.
"""


def label(text: str) -> str:
    """Return a BIDS label: letters and digits only."""
    return "".join(c for c in text if c.isalnum())


def home_of(scan: ScanFiles) -> Path:
    """Folder of a scan's maps within the data set of derivatives."""
    session = () if scan.session is None else (f"ses-{scan.session}",)
    return Path(f"sub-{scan.subject}", *session, "dwi")


def mask_name(scan: ScanFiles) -> str:
    """File name of the mask that maps were made in."""
    return f"{scan.key}_desc-brain_mask.nii.gz"


def map_name(scan: ScanFiles, model: str, metric: str, deviation: bool = False) -> str:
    """File name of a map, or of its standard deviation."""
    end = "_desc-sd_dwimap.nii.gz" if deviation else "_dwimap.nii.gz"
    return f"{scan.key}_model-{label(model)}_param-{label(metric)}{end}"


def flags_name(scan: ScanFiles, model: str) -> str:
    """File name of what to think of each voxel."""
    return f"{scan.key}_desc-{label(model)}flags_dseg.nii.gz"


def write(maps: MapSet, scan: ScanFiles, folder: Path) -> dict[str, list[str]]:
    """Write maps of one scan, with sidecars, into an empty folder.

    The same maps give the same bytes: when they were made is not told here.

    Returns
    -------
    dict of model name to list of str
        Names of its files.
    """
    plain = folder / "plain"
    maps.save(plain)
    index = read_index(plain / INDEX)
    assert index is not None
    files: dict[str, list[str]] = {model: [] for model in index["provenance"]}
    for entry in index["maps"]:
        made = {k: v for k, v in index["provenance"][entry["model"]].items() if k != "created"}
        for key, deviation in (("file", False), ("uncertainty_file", True)):
            if key in entry:
                name = map_name(scan, entry["model"], entry["metric"], deviation)
                os.replace(plain / entry[key], folder / name)
                _dump(_sidecar(entry, made, scan, deviation), folder / sidecar_name(name))
                files[entry["model"]] += [name, sidecar_name(name)]
    for model, file in index["flags"].items():
        name = flags_name(scan, model)
        os.replace(plain / file, folder / name)
        _dump(_flags_sidecar(model, scan), folder / sidecar_name(name))
        files[model] += [name, sidecar_name(name)]
    return files


def write_mask(
    mask: NDArray[np.bool_],
    affine: NDArray,
    scan: ScanFiles,
    folder: Path,
    there: dict[str, Any] | None = None,
) -> str:
    """Write the mask that maps were made in; return its name.

    `there` says where it lies (`_space`), if it is not where the scan does.
    """
    name = mask_name(scan)
    image = nib.Nifti1Image(mask.astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / name)
    how = "of the preprocessing" if scan.mask else "estimated from the b0 images (median_otsu)"
    told = {"Type": "Brain", "Description": f"Mask {how}", "Sources": _sources(scan)}
    _dump(told | (there or _space(scan)), folder / sidecar_name(name))
    return name


def scan_name(scan: ScanFiles) -> str:
    """File name of a scan that was enhanced: one on a grid of its own (entity ``res``)."""
    return f"{_on_new_grid(scan).key}_desc-{PREPROCESSED}_dwi.nii.gz"


def _on_new_grid(scan: ScanFiles) -> ScanFiles:
    """Return the names of a scan with ``res``, the last entity but ``desc``."""
    kept = {name: value for name, value in scan.entities.items() if name != "res"}
    return replace(scan, entities=kept | {"res": NEW_GRID})


def write_scan(made: Enhanced, scan: ScanFiles, folder: Path) -> list[str]:
    """Write an enhanced scan with gradients, mask and sidecars into an empty folder.

    Named as preprocessed scans are, so that the data set may be the input of the next cohort.
    Returns the names of the files.
    """
    name, acq = scan_name(scan), made.scan.acquisition
    nifti.save(replace(made.scan, mask=None), folder / name)
    size = " x ".join(f"{v:.4g}" for v in made.scan.voxel_size)
    there = _space(scan) | {"Resolution": f"{size} mm, by {made.provenance['method']}"}
    told = {k: v for k, v in made.provenance.items() if k != "created"}
    times = {field: getattr(acq, ours) for field, ours in TIMES.items()}
    said = {
        "Description": "Scan as a better scanner might have made it",
        "SkullStripped": True,
        **{field: value / MS_PER_S for field, value in times.items() if value is not None},
        "Sources": _sources(scan),
    }
    _dump(said | there | {"Provenance": told}, folder / sidecar_name(name))
    assert made.scan.mask is not None
    new = _on_new_grid(scan)
    mask = write_mask(made.scan.mask, made.scan.affine, new, folder, there)
    ends = (".nii.gz", ".bval", ".bvec", ".json")
    stem = name.removesuffix(".nii.gz")
    return [*(stem + end for end in ends), mask, sidecar_name(mask)]


def describe(folder: Path, source: Path) -> None:
    """Write what a data set of derivatives says of itself, unless it does already.

    Raises
    ------
    InputError
        If the folder holds a data set that is not ours.
    """
    file = folder / DESCRIPTION
    if file.exists():
        makers = read_json(file).get("GeneratedBy") or [{}]
        if not any(maker.get("Name") == SOFTWARE for maker in makers):
            raise InputError(
                "this folder holds another data set", "Give a folder of its own.", file=file
            )
        return
    told = {
        "Name": f"{SOFTWARE} maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": SOFTWARE, "Version": __version__}],
        "DatasetLinks": {SOURCE: Path(os.path.relpath(source, folder)).as_posix()},
    }
    before = read_json(source / DESCRIPTION) if (source / DESCRIPTION).exists() else {}
    if "License" in before:
        told["License"] = before["License"]
    with staged(folder, last=DESCRIPTION) as stage:
        _dump(told, stage / DESCRIPTION)
        (stage / ".bidsignore").write_text("\n".join(IGNORED) + "\n", encoding="utf-8")
        (stage / "README.md").write_text(README.format(version=__version__), encoding="utf-8")


def _sidecar(
    entry: dict[str, Any], made: dict[str, Any], scan: ScanFiles, deviation: bool
) -> dict[str, Any]:
    """Tell what a map shows, in the fields of BIDS first."""
    title = f"Standard deviation of: {entry['title']}" if deviation else entry["title"]
    told: dict[str, Any] = {"Description": title, "Units": entry["unit"] or "1"}
    told["Model"] = {"Description": entry["model"], "Parameters": made.get("options", {})}
    if entry["kind"] != "scalar" and not deviation:
        told["OrientationEncoding"] = {
            "Reference": "xyz",
            "Type": "tensor" if entry["kind"] == "tensor" else "unit3vector",
            "EncodingAxis": 3,
            "Components": entry["components"],
        }
    return {
        **told,
        "Range": entry["range"],
        "SkullStripped": True,
        "Sources": _sources(scan),
        **_space(scan),
        "Provenance": made,
    }


def _flags_sidecar(model: str, scan: ScanFiles) -> dict[str, Any]:
    meaning = {str(int(flag)): flag.name.lower().replace("_", " ") for flag in Flag}
    told = {"Description": f"What to think of each voxel of {model}", "Labels": meaning}
    return {**told, "Manual": False, "Sources": _sources(scan), **_space(scan)}


def _sources(scan: ScanFiles) -> list[str]:
    return [f"bids:{SOURCE}:{scan.relative(file)}" for file in scan.inputs.values()]


def _space(scan: ScanFiles) -> dict[str, Any]:
    """Tell where maps lie: where the scan does, on its voxels."""
    told = {"SpatialReference": f"bids:{SOURCE}:{scan.relative(scan.image)}"}
    if "res" not in scan.entities:
        return told
    own = next((v for f in reversed(scan.sidecars) if (v := read_json(f).get("Resolution"))), None)
    return told | {"Resolution": own or "That of the scan"}


def sidecar_name(name: str) -> str:
    """File name of an image's JSON."""
    return name.removesuffix(".nii.gz") + ".json"


def _dump(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def outputs(folder: Path) -> Iterator[Path]:
    """Yield every file of the participants, in order."""
    yield from sorted(f for f in folder.glob("sub-*/**/*") if f.is_file())
