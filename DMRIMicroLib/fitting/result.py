"""What every solver returns for a batch of voxels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fitted:
    """Solution of a batch of n voxels.

    Attributes
    ----------
    parameters : (p, n) tensor
    good : (n,) bool tensor
        Whether the usable samples of the voxel determine its parameters.
    usable : (n,) int tensor
        Number of samples that could be used (positive and finite).
    converged : (n,) bool tensor, optional
        Whether an iterative solver came to rest; None for a direct one.
    covariance : (p, p, n) tensor, optional
        Of the parameters.
    deviations : dict of name to (n,) tensor, optional
        Standard deviations of the scalar metrics, from solvers that know them without the
        covariance.
    unbiased : (p, n) tensor, optional
        What another estimate says, which the noise floor does not bias: how far its metrics are
        away is part of their uncertainty.
    """

    parameters: Tensor
    good: Tensor
    usable: Tensor
    converged: Tensor | None = None
    covariance: Tensor | None = None
    deviations: dict[str, Tensor] | None = None
    unbiased: Tensor | None = None
