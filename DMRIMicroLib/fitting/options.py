"""What a user can choose of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

CHOICES = {"method": ("wls", "ols"), "likelihood": ("auto", "rician", "gaussian")}


@dataclass(frozen=True)
class Options:
    """How to fit.

    Attributes
    ----------
    method : {"wls", "ols"}
        Linear models: weighted or ordinary least squares.
    iterations : int
        Linear models: reweighted passes of "wls".
    b_max : float, optional
        Leave out volumes above this b [s/mm2]; by default each model chooses.
    likelihood : {"auto", "rician", "gaussian"}
        Noise of the magnitude signal. "auto" is Rician where the noise is known, and least squares
        for linear models.
    coils : int
        Coils combined by the sum of squares: above 1 the noise is noncentral chi.
    sigma : float, optional
        Standard deviation of the noise, in the signal's unit; by default the scan's estimate.
    robust : bool
        Give samples that fit no tissue (drop-outs, motion) less weight.
    uncertainty : bool
        Also give the standard deviation of every scalar map.
    """

    method: Literal["wls", "ols"] = "wls"
    iterations: int = 1
    b_max: float | None = None
    likelihood: Literal["auto", "rician", "gaussian"] = "auto"
    coils: int = 1
    sigma: float | None = None
    robust: bool = False
    uncertainty: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"{name} is {value!r}", f"Choose {' or '.join(choices)}.")
        for name, high in (("iterations", 20), ("coils", 128)):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or not 1 <= value <= high:
                raise InputError(f"{name} is {value}", f"Choose a whole number from 1 to {high}.")
        if self.method == "ols" and self.likelihood == "rician":
            raise InputError(
                "ordinary least squares know no likelihood", 'Choose method "wls", or another one.'
            )
        if self.sigma is not None and (isinstance(self.sigma, bool) or not self.sigma > 0):
            raise InputError(
                f"sigma is {self.sigma}", "Give a positive standard deviation, or leave it out."
            )
