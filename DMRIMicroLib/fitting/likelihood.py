"""How far a predicted signal is from a measured one, and how strongly it should move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import InputError
from ..physics.noise import fisher, magnitude_terms

KINDS = ("rician", "gaussian")


@dataclass(frozen=True)
class Likelihood:
    """Likelihood of magnitude signals.

    H. Gudbjartsson, S. Patz, Magn. Reson. Med. 34 (1995) 910-914 (Rician); with more than one
    coil, C. D. Constantinides, E. Atalar, E. R. McVeigh, Magn. Reson. Med. 38 (1997) 852-857.

    Attributes
    ----------
    kind : {"rician", "gaussian"}
    coils : int
        Coils combined by the sum of squares (noncentral chi); 1 for Rician noise.
    """

    kind: Literal["rician", "gaussian"] = "gaussian"
    coils: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"likelihood is {self.kind!r}", f"Choose {' or '.join(KINDS)}.")
        if self.coils < 1:
            raise InputError(f"coils is {self.coils}", "Choose 1 or more.")

    def __call__(
        self, y: Tensor, signal: Tensor, sigma: Tensor | None, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare measured `y` with predicted `signal`, both (m, n), `sigma` (n,).

        Returns
        -------
        (n,) tensor
            Cost: -2 ln p up to a constant, in units of chi-square (of sigma2 if sigma is None).
        (m, n) tensor
            Half its derivative by each signal.
        (m, n) tensor
            Half its expected second derivative (the Fisher information).
        """
        if sigma is None or self.kind == "gaussian":
            precision = weight if sigma is None else weight / sigma.square()
            residual = signal - y
            slope = residual * precision
            return residual.mul_(slope).sum(0), slope, precision
        deviance, pull = magnitude_terms(y, signal, sigma, self.coils)
        precision = weight / sigma.square()
        information = fisher(signal, sigma, self.coils).mul_(precision)
        return (deviance * weight).sum(0), pull.mul_(precision), information
