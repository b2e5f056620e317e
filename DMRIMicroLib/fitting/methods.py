"""How each kind of model is fitted to a batch of voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..models.base import LinearModel, Model, NonlinearModel, PowderModel
from ..models.framed import FramedModel
from .likelihood import Likelihood
from .linear import WeightedLeastSquares
from .means import spherical_means
from .options import Options
from .regularised import RegularisedLeastSquares
from .result import Fitted
from .solver import LevenbergMarquardt

Method = Callable[[Tensor, Tensor | None], Fitted]
"""(n, m) signal and (n,) sigma, or None if the noise is not known -> solution."""

UNKNOWN_NOISE = 0.03
"""Noise over S0 that weighs data against a model's prior where the noise is not known."""


@singledispatch
def method_for(
    model: Model, acq: Acquisition, options: Options, device: torch.device, dtype: torch.dtype
) -> Method:
    """Return what fits `model` to signals of `acq`."""
    raise TypeError(f"no solver for models like {type(model).__name__}")


@method_for.register
def _(model: LinearModel, acq, options, device, dtype) -> Method:
    """Least squares; by likelihood if asked for, or else the uncertainty knows the difference."""
    weighted = options.method == "wls"

    def solver(likelihood: Likelihood | None) -> WeightedLeastSquares:
        return WeightedLeastSquares(
            model.design(acq),
            options.iterations if weighted else 0,
            robust=options.robust,
            likelihood=likelihood,
            device=device,
            dtype=dtype,
        )

    likely = solver(_likelihood(options)) if weighted and options.likelihood != "gaussian" else None
    if likely is not None and options.likelihood == "rician":
        return lambda signal, sigma: likely.fit(signal, options.uncertainty, sigma)
    least = solver(None)

    def fit(signal: Tensor, sigma: Tensor | None) -> Fitted:
        found = least.fit(signal, options.uncertainty, sigma)
        if not options.uncertainty or likely is None or sigma is None:
            return found
        return replace(found, unbiased=likely.fit(signal, sigma=sigma).parameters)

    return fit


@method_for.register
def _(model: FramedModel, acq, options, device, dtype) -> Method:
    solver = RegularisedLeastSquares(
        model, acq, likelihood=_likelihood(options), device=device, dtype=dtype
    )
    return lambda signal, sigma: solver.fit(signal, deviations=options.uncertainty, sigma=sigma)


@method_for.register
def _(model: NonlinearModel, acq, options, device, dtype) -> Method:
    baselines = torch.tensor(acq.is_b0.nonzero()[0])
    solver = LevenbergMarquardt(model, acq, _likelihood(options), robust=options.robust)
    # a noise that is only assumed has no floor that could be known
    plain = LevenbergMarquardt(model, acq, Likelihood("gaussian"), robust=options.robust)

    def fit(signal: Tensor, sigma: Tensor | None) -> Fitted:
        chosen = plain if sigma is None else solver
        relative, sigma, has_s0 = _divide(signal, sigma, baselines.to(signal.device))
        sigma = _assumed(sigma, model, relative)
        found = chosen.fit(relative, sigma, covariance=options.uncertainty)
        return _only(found, has_s0)

    return fit


@method_for.register
def _(model: PowderModel, acq, options, device, dtype) -> Method:
    baselines = torch.tensor(acq.is_b0.nonzero()[0])
    # a mean over many samples is Gaussian; what is left of the noise floor is taken out of it
    solver = LevenbergMarquardt(model, acq.powder(), Likelihood("gaussian"))

    def fit(signal: Tensor, sigma: Tensor | None) -> Fitted:
        relative, sigma, has_s0 = _divide(signal, sigma, baselines.to(signal.device))
        floor = None if options.likelihood == "gaussian" else sigma
        means, counts = spherical_means(relative, acq, floor, options.coils, options.robust)
        sigma = _assumed(sigma, model, relative)
        found = solver.fit(means, sigma, counts=counts, covariance=options.uncertainty)
        return replace(_only(found, has_s0), usable=_usable(signal))

    return fit


def _likelihood(options: Options) -> Likelihood:
    kind = "gaussian" if options.likelihood == "gaussian" else "rician"
    return Likelihood(kind, options.coils)


def _divide(
    signal: Tensor, sigma: Tensor | None, baselines: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Divide by S0, the mean of the usable b0 samples; say where there is one."""
    b0 = signal[:, baselines]
    usable = (b0 > 0) & torch.isfinite(b0)
    s0 = torch.where(usable, b0, 0).sum(1) / usable.sum(1).clamp(min=1)
    has_s0 = s0 > 0
    s0 = torch.where(has_s0, s0, 1)
    return signal / s0[:, None], None if sigma is None else sigma / s0, has_s0


def _assumed(sigma: Tensor | None, model: NonlinearModel, relative: Tensor) -> Tensor | None:
    """Noise that weighs the data against the model's prior, where it has one."""
    if sigma is None and any(p.prior for p in model.parameters):
        return torch.full_like(relative[:, 0], UNKNOWN_NOISE)
    return sigma


def _usable(signal: Tensor) -> Tensor:
    """Count the samples that are positive and finite: (n, m) -> (n,)."""
    return ((signal > 0) & torch.isfinite(signal)).sum(1, dtype=torch.int32)


def _only(found: Fitted, good: Tensor) -> Fitted:
    return replace(found, good=found.good & good)
