"""Maps that are given as the truth: found beside the scans of a data set of derivatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..codebooks.estimate import metric_of
from ..errors import InputError
from ..io.bids import NIFTI, ScanFiles, entities_of
from ..io.nifti import read_volume
from ..masking import SAME_GRID
from ..scan import Scan
from ..training.pool import METRICS

DARK = 0.01
"""Values with a unit are below this share of what maps are shown up to if the unit is another."""


def given_maps(
    one: ScanFiles, scan: Scan, folder: Path, metrics: tuple[str, ...] = METRICS
) -> dict[str, NDArray[np.float32]]:
    """Read the maps of a scan out of a data set of derivatives.

    Parameters
    ----------
    one : ScanFiles
    scan : Scan
        The same, opened: maps must lie on its grid.
    folder : path
        Laid out as `dmrimicro cohort` does it: ``sub-*/[ses-*/]dwi/*_param-METRIC_*.nii.gz``; the
        values in the units of our own maps, 0 or NaN where not known.
    metrics : tuple of str
        That are looked for.

    Returns
    -------
    dict of str to (x, y, z) array
        NaN where not known; without those that are not there.
    """
    home, files, out = _home(one, folder), found_maps(one, folder), {}
    for name in metrics:
        found = [file for file in files if _is(file, one, name)]
        if len(found) > 1:
            raise InputError(
                f"there are {len(found)} maps of {name}: {', '.join(f.name for f in found)}",
                "Leave one of them there.",
                file=home,
            )
        if found:
            out[name] = _in_unit(_on_grid(found[0], scan), name, scan, found[0])
    if not out:
        raise InputError(
            f"there is no map of {', '.join(metrics[:4])} and so on",
            "Give the data set of the maps itself (--maps), and name them as `dmrimicro cohort` "
            "does: *_param-FA_dwimap.nii.gz.",
            file=home,
        )
    return out


def found_maps(one: ScanFiles, folder: Path) -> list[Path]:
    """List the images that may be maps of a scan."""
    home = _home(one, folder)
    return [file for end in NIFTI for file in sorted(home.glob(f"*{end}"))]


def _home(one: ScanFiles, folder: Path) -> Path:
    home = folder / f"sub-{one.subject}"
    return home / "dwi" if one.session is None else home / f"ses-{one.session}" / "dwi"


def _is(file: Path, one: ScanFiles, metric: str) -> bool:
    """Whether a file is a map of this metric and scan."""
    own = entities_of(file)
    same = all(own.get(name) == value for name, value in one.entities.items())
    wanted = "".join(c for c in metric if c.isalnum())
    return same and own.get("param", "").casefold() == wanted.casefold() and "desc" not in own


def _on_grid(file: Path, scan: Scan) -> NDArray[np.float32]:
    data, affine = read_volume(file)
    data = np.asarray(data, np.float32)
    data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
    if data.shape != scan.shape or not np.allclose(affine, scan.affine, atol=SAME_GRID):
        raise InputError(
            f"has {data.shape} voxels on another grid than the scan, which has {scan.shape}",
            "Give maps on the scan's own grid.",
            file=file,
        )
    return np.where(data == 0, np.nan, data)


def _in_unit(data: NDArray[np.float32], name: str, scan: Scan, file: Path) -> NDArray[np.float32]:
    """Refuse values that can only be in another unit: a network would learn them all the same."""
    metric = metric_of(name)
    inside = data[np.isfinite(data) if scan.mask is None else scan.mask & np.isfinite(data)]
    if not len(inside):
        raise InputError(f"has no value of {name} in the brain", "Check the map.", file=file)
    middle, unit = float(np.median(inside)), metric.unit or "a pure number"
    dark = DARK * metric.window[1] if metric.unit else metric.low
    if not dark <= middle <= metric.high:
        raise InputError(
            f"the median of {name} is {middle:.3g}, and {metric.low:g} to {metric.high:g} was "
            f"expected ({unit})",
            "Give the map in this unit.",
            file=file,
        )
    return data
