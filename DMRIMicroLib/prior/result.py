"""What posterior sampling gives: maps, and samples to draw signals and fibres from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition
from ..codebooks.slices import Loaded
from ..errors import InputError
from ..maps import Map, MapSet
from . import fibres


@dataclass(frozen=True, eq=False)
class Pigment:
    """What posterior sampling says of a scan.

    Attributes
    ----------
    maps : MapSet
        Metrics with standard deviations, ``prior_share`` and ``pigment_residual``, under the model
        name "pigment".
    best : (n, c) tensor
        Posterior mean of the numbers of the signal space; voxels in C order.
    numbers : (samples, n, c) float16 tensor
        Samples of them.
    loaded : Loaded
    usable : (x, y, z) bool array
    frame : (3, 3) tensor
    """

    maps: MapSet
    best: Tensor
    numbers: Tensor
    loaded: Loaded
    usable: NDArray[np.bool_]
    frame: Tensor

    def __getitem__(self, name: str) -> Map:
        return self.maps[name]

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.numbers)

    def signal(self, acquisition: Acquisition, which: int | None = None) -> NDArray[np.float32]:
        """Noise-free signal of any acquisition up to b = 3200, relative to b = 0: (x, y, z, m).

        Parameters
        ----------
        acquisition : Acquisition
            m volumes.
        which : int, optional
            Of the samples, from 0; the posterior mean if left out.
        """
        design, offset, _ = self.loaded.space.design(acquisition, self.frame)
        values = (self._numbers(which) @ design.float().T + offset.float()).clamp(0, 1)
        out = np.zeros((*self.usable.shape, len(acquisition)), np.float32)
        out[self.usable] = values.numpy()
        return out

    def tensors(self, which: int | None = None) -> NDArray[np.float32]:
        """Diffusion tensors of a sample: (x, y, z, 6), xx, yy, zz, xy, xz, yz in RAS [mm2/s].

        All samples, ``[p.tensors(k) for k in range(len(p))]``, are what ``tracts(samples=...)``
        takes. See `signal` for `which`.
        """
        signal = self.signal(fibres.FOR_TENSORS, which)
        return fibres.tensors(signal, self.usable, self.maps.affine)

    def odf(self, which: int | None = None) -> NDArray[np.float32]:
        """Fibre distributions of a sample: (x, y, z, c) harmonics in RAS, for ``odf="csd"``.

        Raises
        ------
        InputError
            If no voxel is anisotropic enough to learn a single fibre's signal from.
        """
        signal, tensors = self.signal(fibres.FOR_ODF, which), self.tensors(which)
        return fibres.distributions(signal, tensors, self.usable, self.maps.affine)

    def save(self, folder: str | Path, **options: Any) -> Path:
        """Write the maps; see `MapSet.save`."""
        return self.maps.save(folder, **options)

    def _numbers(self, which: int | None) -> Tensor:
        """Return a sample of the signal space, or the mean: (n, c)."""
        if which is None:
            return self.best
        if not 0 <= which < len(self):
            raise InputError(f"there is no sample {which}", f"Give 0 to {len(self) - 1}.")
        return self.numbers[which].float()
