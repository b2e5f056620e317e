"""Metrics in the units a network works in: each around 0, with a spread around 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

POWERS = {"RTOP": 1 / 3, "RTAP": 1 / 2}
"""Probabilities of return in three and two dimensions are as spread as a cube and a square; their
roots are of the size of RTPP."""

SPREAD = (0.159, 0.841)
"""Quantiles one standard deviation around the median."""


@dataclass(frozen=True)
class Scale:
    """Centre and spread of every metric, after its power of `POWERS`.

    Attributes
    ----------
    metrics : tuple of str
    centre, spread : tuple of float
    """

    metrics: tuple[str, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> Scale:
        """Find the scale of sample values, (n,) each."""
        centre, spread = [], []
        for name, sample in values.items():
            u = sample.double().clamp(min=0) ** POWERS.get(name, 1.0)
            low, middle, high = torch.quantile(
                u, torch.tensor([SPREAD[0], 0.5, SPREAD[1]]).double()
            )
            centre.append(float(middle))
            spread.append(max(float(high - low) / 2, 1e-3 * abs(float(middle)), 1e-12))
        return cls(tuple(values), tuple(centre), tuple(spread))

    def encode(self, values: Tensor) -> Tensor:
        """Metrics in their own units -> the network's: (..., k)."""
        power, centre, spread = self._columns(values)
        return (values.clamp(min=0) ** power - centre) / spread

    def decode(self, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in the metrics' own units: (..., k), twice.

        The standard deviation by the slope of the power at the mean.
        """
        power, centre, spread = self._columns(mean)
        root = mean * spread + centre
        root = torch.where(power == 1, root, root.clamp(min=0))
        slope = torch.where(power == 1, 1.0, root.clamp(min=0) ** (1 / power - 1) / power)
        value = torch.where(power == 1, root, root.clamp(min=0) ** (1 / power))
        return value, sd * spread * slope

    def subset(self, metrics: Sequence[str]) -> Scale:
        """Return the scale of some metrics."""
        at = [self.metrics.index(name) for name in metrics]
        picked = (tuple(v[k] for k in at) for v in (self.centre, self.spread))
        return Scale(tuple(metrics), *picked)

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        power = [POWERS.get(name, 1.0) for name in self.metrics]
        return tuple(like.new_tensor(v) for v in (power, self.centre, self.spread))  # type: ignore[return-value]
