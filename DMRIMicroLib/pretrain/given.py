"""Maps that are given as the truth: found beside the scans of a data set of derivatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io.bids import NIFTI, ScanFiles, entities_of
from ..io.nifti import read_volume
from ..masking import SAME_GRID
from ..scan import Scan
from ..training.pool import METRICS


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
    home = folder / f"sub-{one.subject}"
    home = home / "dwi" if one.session is None else home / f"ses-{one.session}" / "dwi"
    files = [file for end in NIFTI for file in sorted(home.glob(f"*{end}"))]
    out = {}
    for name in metrics:
        found = [file for file in files if _is(file, one, name)]
        if len(found) > 1:
            raise InputError(
                f"there are {len(found)} maps of {name}: {', '.join(f.name for f in found)}",
                "Leave one of them there.",
                file=home,
            )
        if found:
            out[name] = _on_grid(found[0], scan)
    if not out:
        raise InputError(
            f"there is no map of {', '.join(metrics[:4])} and so on",
            "Name them as `dmrimicro cohort` does: *_param-FA_dwimap.nii.gz.",
            file=home,
        )
    return out


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
