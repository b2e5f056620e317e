r"""What degree 2 of a voxel's signal says of degree 4.

A tensor's signal is :math:`e^{-b g'Dg}`. With A the anisotropic part of :math:`b D`, its second
term A is of degree 2, and its third, :math:`A^2 / 2`, has all that there is of degree 4. Tissue has
crossings, too, and yet

.. math:: z_4 = \alpha \, P_4(z_2 z_2) + e, \qquad e \sim N(0, \tau^2),

with the first components z2 and z4 of the space (`space`), :math:`P_4` the part of degree 4 of a
product, and two numbers that simulated tissue tells, is right for two thirds of degree 4. Six
directions measure degree 2 and leave degree 4 open: a Gaussian prior, which knows no products, was
worse there than a tensor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..physics.sh import products

LARGEST = 8.5
"""Norm of the five numbers of degree 2: one in 10,000 simulated voxels has more. A square has no
bound of its own, and noise has no end."""


class Coupling(NamedTuple):
    """The two numbers.

    Attributes
    ----------
    scale : float
        alpha.
    spread : float
        tau.
    """

    scale: float
    spread: float

    @classmethod
    def of(cls, second: Tensor, fourth: Tensor) -> Coupling:
        """Find them: first components of degree 2 and 4 of n voxels, (n, 5) and (n, 9)."""
        square = _square(second)
        scale = float((square * fourth).sum() / square.square().sum())
        return cls(scale, float((fourth - scale * square).square().mean().sqrt()))

    def expected(self, second: Tensor) -> Tensor:
        """Return what is to be expected of degree 4: (n, 5) -> (n, 9).

        Of more than the most anisotropic tissue (`LARGEST`), that of the most.
        """
        size = torch.linalg.vector_norm(second, dim=1, keepdim=True)
        return self.scale * _square(second * (LARGEST / size.clamp(min=LARGEST)))


def _square(second: Tensor) -> Tensor:
    """Part of degree 4 of the square of a function of degree 2: (n, 5) -> (n, 9)."""
    return torch.einsum("na,nb,abc->nc", second, second, _integrals().to(second))


@lru_cache(maxsize=1)
def _integrals() -> Tensor:
    return products(2, 2, 4)
