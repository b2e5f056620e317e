"""Ridge regression in closed form, its penalty chosen by cross-validation over blocks.

A. E. Hoerl, R. W. Kennard, Technometrics 12 (1970) 55-67. Folds only take sums away from the normal
equations of all rows, so that every penalty and fold costs one small eigenvalue problem a fold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = 25
"""Tried, evenly spaced in the logarithm."""

RANGE = (1e-5, 1e1)
"""Of the penalty, relative to the number of rows: columns have the variance 1, so that at the upper
end nearly nothing is left of a slope."""

FLAT = 1e-4
"""Columns with a standard deviation below this share of the largest, or of their own mean, are
constant: the rest is rounding."""


@dataclass(frozen=True)
class Ridge:
    """A linear function of f columns.

    Attributes
    ----------
    weights : (f + 1,) tensor
        Slopes and the constant, for columns as they come.
    held_out : (n,) tensor
        What every row is told by the function of the other folds.
    penalty : float
        That was chosen, relative to the number of rows.
    """

    weights: Tensor
    held_out: Tensor
    penalty: float


def ridge(columns: Tensor, values: Tensor, folds: Tensor) -> Ridge:
    """Fit values by columns.

    Parameters
    ----------
    columns : (n, f) tensor
    values : (n,) tensor
    folds : (n,) int tensor
        Rows of one number are left out together; there are two numbers at least.
    """
    x, y = columns.double(), values.double()
    centre, spread = x.mean(0), x.std(0)
    least = FLAT * torch.maximum(spread.max(), centre.abs())
    spread = torch.where(spread > least, spread, math.inf)
    x = torch.cat([(x - centre) / spread, torch.ones_like(x[:, :1])], 1)
    middle, size = y.mean(), y.std().clamp(min=1e-300)
    y = (y - middle) / size
    low, high = (math.log(v) for v in RANGE)
    penalties = torch.linspace(low, high, PENALTIES, dtype=x.dtype).exp()
    told = torch.zeros(len(y), PENALTIES, dtype=x.dtype)
    gram, moment = x.T @ x, x.T @ y
    for fold in folds.unique():
        out = folds == fold
        rest = _solve(gram - x[out].T @ x[out], moment - x[out].T @ y[out], penalties, ~out)
        told[out] = x[out] @ rest
    best = int((told - y[:, None]).square().sum(0).argmin())
    weights = _solve(gram, moment, penalties[best : best + 1], torch.ones_like(out))[:, 0]
    slopes = size * weights[:-1] / spread
    constant = middle + size * weights[-1] - centre @ slopes
    return Ridge(
        torch.cat([slopes, constant[None]]), middle + size * told[:, best], float(penalties[best])
    )


def _solve(gram: Tensor, moment: Tensor, penalties: Tensor, rows: Tensor) -> Tensor:
    """Solve for every penalty: (f + 1, f + 1), (f + 1,), (p,) -> (f + 1, p).

    The constant, last, has the penalty of the others: rows are standardised, it is next to 0.
    """
    size, basis = torch.linalg.eigh(gram)
    shrunk = size.clamp(min=0)[:, None] + penalties * rows.sum()
    return basis @ ((basis.T @ moment)[:, None] / shrunk)
