"""Removal of Gibbs ringing.

E. Kellner, B. Dhital, V. G. Kiselev, M. Reisert, Magn. Reson. Med. 76 (2016) 1574-1581: each
line of a slice is shifted by parts of a voxel to where the ringing is sampled at its zeros. The
work is dipy's ``gibbs_removal``.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..scan import Scan
from .work import Progress, Stop, finite_signal, noise_of, steps, with_broken

MIN_EDGE = 16
"""Voxels along each edge of a slice without which there is no room: the method looks at four
neighbours on either side, and around the rim to the other side of the image."""


def degibbs(
    scan: Scan,
    *,
    slice_axis: int = 2,
    progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Scan:
    """Remove Gibbs ringing in the slices; after denoising, if that is done too.

    Made for images whose k-space was sampled fully and not zero-filled: with partial Fourier some
    ringing stays.

    Parameters
    ----------
    scan : Scan
        Its signal is read into memory; what is not finite becomes NaN.
    slice_axis : {2, 0, 1}
        Image axis across the slices.
    progress, cancelled : callable, optional
        See `prepare`.

    Returns
    -------
    Scan
        float32 signal, changed in every voxel. `Scan.noise` stays the noise of before.

    Raises
    ------
    InputError
        If the slices are too small, or there is no such axis.
    Cancelled
        If `cancelled` said so.
    """
    import dipy
    from dipy.denoise.gibbs import gibbs_removal

    if slice_axis not in (0, 1, 2):
        raise InputError(f"slice_axis is {slice_axis}", "Choose 0, 1 or 2.")
    edges = [n for axis, n in enumerate(scan.shape) if axis != slice_axis]
    if min(edges) < MIN_EDGE:
        raise InputError(
            f"Gibbs ringing cannot be removed from slices of {edges[0]} x {edges[1]} voxels",
            f"It takes {MIN_EDGE} along each edge; leave the step out.",
            file=scan.source,
        )
    step = steps(progress, cancelled, "Removing Gibbs ringing")
    noise = noise_of(scan)
    signal, broken = finite_signal(scan)
    count = signal.shape[3]
    for v in range(count):
        step(v / count)
        volume = np.ascontiguousarray(signal[..., v])
        signal[..., v] = gibbs_removal(volume, slice_axis=slice_axis, inplace=False)
    step(1.0)
    cleaned = scan.with_processed(with_broken(signal, broken), noise)
    return cleaned.with_notes(
        f"Gibbs ringing removed in the slices across image axis {'xyz'[slice_axis]} by sub-voxel "
        f"shifts (dipy {dipy.__version__}); made for full k-space without zero filling"
    )
