"""What is known of a head before any tissue is put into it: classes, fibres, bundles."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

CLASSES = ("white", "cortex", "deep", "csf")
"""Tissue classes: white matter, cortical grey, deep grey nuclei, cerebrospinal fluid."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head on one grid; world coordinates are RAS millimetres.

    Attributes
    ----------
    name : str
    affine : (4, 4) float64 tensor
        Voxel indices to RAS.
    tissue : (4, x, y, z) float16 tensor
        Volume fractions of `CLASSES`; what is left to 1 is not brain.
    peaks : (k, 3, x, y, z) float16 tensor
        Fibre directions in RAS, longest first; the length is the relative size of the fibre
        population (0: none).
    coherence : (x, y, z) float16 tensor
        0 to 1: how parallel the fibres of a population are (from the anisotropy of the source).
    bundle : (x, y, z) uint8 tensor
        Bundle label, 0 for none.
    bundles : tuple of str
        Names of the labels 1, 2, ...
    sources : tuple of str
        Where it comes from, with licences.
    """

    name: str
    affine: Tensor
    tissue: Tensor
    peaks: Tensor
    coherence: Tensor
    bundle: Tensor
    bundles: tuple[str, ...]
    sources: tuple[str, ...]
