"""Weights that take outliers (slice drop-outs, motion, spikes) out of a fit.

L.-C. Chang, D. K. Jones, C. Pierpaoli, Magn. Reson. Med. 53 (2005) 1088-1095 (RESTORE: iterative
reweighting by residuals over the noise); the weight function is the biweight of A. E. Beaton,
J. W. Tukey, Technometrics 16 (1974) 147-185.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUT = 4.685
"""Residual, in standard deviations, from which a sample counts nothing: the biweight then has
95 % of the efficiency of least squares on Gaussian noise."""

ROBUST_PASSES = 3
"""Fits with new weights after the first."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def outlier_weights(residual: Tensor, used: Tensor, sigma: Tensor | None) -> Tensor:
    """Weigh each sample by its residual.

    Parameters
    ----------
    residual : (m, n) tensor
        Of standard deviation `sigma` where there are no outliers.
    used : (m, n) bool tensor
        Samples that count at all.
    sigma : (n,) tensor, optional
        The scale is at least this; it is larger where half of the samples are further away, so
        that a model which does not fit a voxel does not lose its samples one by one.

    Returns
    -------
    (m, n) tensor
        Weights in 0 to 1.
    """
    size = torch.where(used, residual.abs(), torch.nan)
    scale = MAD_TO_SD * size.nanmedian(0).values
    if sigma is not None:
        scale = torch.maximum(scale.nan_to_num(), sigma)
    share = residual / (CUT * scale).clamp(min=torch.finfo(residual.dtype).tiny)
    return (1 - share.square()).clamp(min=0).square()
