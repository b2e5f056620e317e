"""What a quality figure means for the user: when to warn, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .coherence import Coherence

LOW_SNR = 8.0
"""b0 SNR below which Rician bias reaches FA and MD: at b = 1000 tissue keeps about a third of the
signal, and the bias starts at SNR 3 (D. K. Jones, P. J. Basser, Magn. Reson. Med. 52 (2004)
979-993)."""

HIGH_FA = 0.95
"""No voxel of brain tissue at millimetre resolution reaches this FA."""

MANY_HIGH_FA = 0.02
"""Share of voxels above `HIGH_FA` that deserves a warning."""

MANY_NEGATIVE = 0.05
"""Share of voxels with a negative eigenvalue that deserves a warning."""


def warnings_of(
    *,
    snr: float | None,
    outlier_volumes: tuple[int, ...],
    outlier_slices: tuple[tuple[int, int], ...],
    coherence: Coherence | None,
    high_fa: float | None,
    negative: float | None,
    **_: object,
) -> Iterator[str]:
    """Say what is wrong and what to do, worst first."""
    if coherence is not None and coherence.verdict == "inconsistent":
        yield (
            f"The b-vectors do not fit the image: fibres run on better with "
            f"{coherence.change} (image axes; score {coherence.best:.2f} against "
            f"{coherence.given:.2f}). Every direction and tract would be wrong: convert the scan "
            "again with dcm2niix, or check the rule by which the b-vectors were written."
        )
    if outlier_slices:
        affected = sorted({v for v, _ in outlier_slices})
        yield (
            f"Signal drop-out in {_count(outlier_slices, 'slice')} of "
            f"{_count(affected, 'volume')} ({_listed(affected)}), as head motion or pulsation "
            "during the diffusion encoding makes it. A few slices do little harm; otherwise "
            "correct the scan (for example FSL eddy with --repol) or leave these volumes out, "
            "and fit again."
        )
    if outlier_volumes:
        yield (
            f"The mean signal of {_count(outlier_volumes, 'volume')} does not fit the shell "
            f"({_listed(outlier_volumes)}). Look there; leave out what is damaged, and check that "
            "b-values and images are in the same order."
        )
    if snr is not None and snr < LOW_SNR:
        yield (
            f"The SNR of the b0 images is low ({snr:.1f}; at least {LOW_SNR:g} is wanted): "
            "FA is biased upwards and MD downwards. Denoise the scan before anything else, or "
            "average repeats."
        )
    if high_fa is not None and high_fa > MANY_HIGH_FA:
        yield (
            f"{high_fa:.1%} of the voxels have FA > {HIGH_FA}, which brain tissue does not "
            "reach. Noise, motion or a mask that covers background do this: look at the mask and "
            "at the outliers."
        )
    if negative is not None and negative > MANY_NEGATIVE:
        yield (
            f"{negative:.1%} of the tensors have a negative eigenvalue, which is "
            "impossible. Usual causes are noise, motion between volumes and wrong b-values."
        )


def _listed(volumes: tuple[int, ...] | list[int], most: int = 12) -> str:
    """Write 'volumes 3, 7, counted from 0', cut when long."""
    said = ", ".join(map(str, volumes[:most])) + (", ..." if len(volumes) > most else "")
    return f"{'volume' if len(volumes) == 1 else 'volumes'} {said}, counted from 0"


def _count(things: Sized, name: str) -> str:
    """Write '1 slice', '4 slices'."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
