"""Acquisitions: those of well-known studies by name, and random ones of every quality."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..errors import InputError
from ..table import B0_THRESHOLD
from .directions import STYLES, spread

GAMMA = 2.675222e-4
"""Gyromagnetic ratio of protons [rad / (ms um) per mT/m], 2 pi 42.577 MHz/T."""

REFOCUSING = 6.0
"""Time between the two gradients that the refocusing pulse takes [ms] (range chosen)."""

READOUT = (8.0, 30.0)
"""Time from the second gradient to the echo [ms]: half the readout, less with partial Fourier
(range chosen)."""

GRADIENTS = (20.0, 40.0, 60.0, 80.0, 100.0, 300.0)
"""Gradient strengths [mT/m] of low-field, clinical, research and Connectome scanners."""


@dataclass(frozen=True)
class Design:
    """A protocol as a paper's methods section tells it.

    Attributes
    ----------
    shells : tuple of (float, int)
        b-value [s/mm2] and number of directions.
    b0 : int
        Volumes without weighting, spread over the scan.
    delta, Delta, TE : float
        Gradient duration, separation and echo time [ms].
    source : str
        Where it comes from.
    """

    shells: tuple[tuple[float, int], ...]
    b0: int
    delta: float
    Delta: float
    TE: float
    source: str


DESIGNS = {
    "hcp3t": Design(
        ((1000, 90), (2000, 90), (3000, 90)),
        18,
        10.6,
        43.1,
        89.5,
        "Human Connectome Project, 3 T: S. N. Sotiropoulos et al., NeuroImage 80 (2013) 125-143",
    ),
    "hcp7t": Design(
        ((1000, 64), (2000, 64)),
        15,
        11.0,
        31.0,
        71.2,
        "Human Connectome Project, 7 T: A. T. Vu et al., NeuroImage 122 (2015) 318-331 "
        "(delta and Delta chosen for its gradients and TE)",
    ),
    "b1k_b2k": Design(
        ((1000, 30), (2000, 60)),
        13,
        16.2,
        26.5,
        60.0,
        "the example scan of PyPI mdt 1.2.7",
    ),
    "noddi": Design(
        ((711, 30), (2855, 60)),
        9,
        17.5,
        37.8,
        78.0,
        "H. Zhang et al., NeuroImage 61 (2012) 1000-1016, table 2's two-shell protocol "
        "(timing chosen for 60 mT/m)",
    ),
    "sandi": Design(
        ((500, 30), (1000, 30), (2000, 30), (3000, 30), (4000, 60), (6000, 60)),
        16,
        7.0,
        24.0,
        80.0,
        "S. Schiavi et al., Hum. Brain Mapp. 44 (2023) 4792-4811, without b = 8000",
    ),
    "adni3": Design(((1000, 48),), 7, 13.0, 27.0, 56.0, "ADNI 3, basic protocol (timing chosen)"),
    "ukb": Design(
        ((1000, 50), (2000, 50)),
        5,
        21.4,
        45.5,
        92.0,
        "UK Biobank: K. L. Miller et al., Nat. Neurosci. 19 (2016) 1523-1536",
    ),
    "clinical3": Design(((1000, 3),), 1, 20.0, 35.0, 90.0, "trace imaging of stroke (chosen)"),
    "clinical6": Design(((1000, 6),), 1, 20.0, 35.0, 90.0, "six directions (chosen)"),
    "clinical12": Design(((1000, 12),), 1, 20.0, 35.0, 88.0, "twelve directions (chosen)"),
    "clinical30": Design(((1000, 30),), 5, 18.0, 33.0, 84.0, "thirty directions (chosen)"),
    "lowfield": Design(((900, 6),), 1, 35.0, 50.0, 105.0, "portable scanner, 64 mT (chosen)"),
}
"""Every named protocol."""


@dataclass(frozen=True)
class ProtocolConfig:
    """Ranges of random protocols.

    Attributes
    ----------
    volumes : (int, int)
        Drawn evenly in the logarithm.
    shells : (int, int)
    b : (float, float)
        Of shells [s/mm2].
    styles : mapping of `directions.STYLES` to weight, as pairs
    jitter : float
        Share of protocols whose b-values scatter around their shells, by up to `jitter_size`.
    jitter_size : float
        Standard deviation, relative.
    low_b0 : float
        Share of protocols whose "b0" volumes are weakly weighted, up to 50 s/mm2.
    missing_b0 : float
        Share of those with two shells or more whose lowest, at b = 100 to 300 s/mm2, has to serve
        as b0.
    timed : float
        Share whose gradient timing is known.
    """

    volumes: tuple[int, int] = (3, 300)
    shells: tuple[int, int] = (1, 5)
    b: tuple[float, float] = (300.0, 6000.0)
    styles: tuple[tuple[str, float], ...] = (
        ("spread", 0.6),
        ("half sphere", 0.15),
        ("scattered", 0.1),
        ("clustered", 0.05),
        ("few", 0.1),
    )
    jitter: float = 0.2
    jitter_size: float = 0.01
    low_b0: float = 0.15
    missing_b0: float = 0.02
    timed: float = 0.7


def named(name: str, seed: int = 0) -> Acquisition:
    """Return a protocol of `DESIGNS`; its directions are spread and the same for every seed."""
    try:
        design = DESIGNS[name.lower()]
    except KeyError:
        raise InputError(
            f"there is no protocol {name!r}", f"Choose from: {', '.join(DESIGNS)}."
        ) from None
    generator = torch.Generator().manual_seed(seed)
    bvals = torch.tensor([b for b, n in design.shells for _ in range(n)], dtype=torch.float64)
    bvecs = torch.cat([spread(n, generator) for _, n in design.shells])
    order = torch.randperm(len(bvals), generator=generator)
    return _with_b0(
        bvals[order],
        bvecs[order],
        torch.zeros(design.b0, dtype=torch.float64),
        delta=design.delta,
        Delta=design.Delta,
        TE=design.TE,
    )


def draw_protocol(generator: torch.Generator, config: ProtocolConfig | None = None) -> Acquisition:
    """Draw a protocol.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU.
    config : ProtocolConfig, optional

    Returns
    -------
    Acquisition
        With TE always, delta and Delta mostly: all three fit the highest b and some gradient.
    """
    config = config or ProtocolConfig()
    low, high = (math.log(n) for n in config.volumes)
    total = round(math.exp(_uniform(generator, low, high)))
    fewest, most = config.shells
    most = max(fewest, min(most, (total - 1) // 2))  # at least two directions each
    shells = int(torch.randint(fewest, most + 1, (1,), generator=generator))
    b0 = max(1, round((total - shells) * _uniform(generator, 0.03, 0.15)))
    bs = _shells(shells, config.b, generator)
    missing = shells > 1 and _chance(generator, config.missing_b0)
    if missing:
        bs[0] = min(bs[0], 50.0 * round(_uniform(generator, 2, 6)))
    bvals, bvecs = _weighted(bs, max(total - b0, shells), generator, config)
    timing = draw_timing(float(bvals.max()), generator)
    if not _chance(generator, config.timed):
        timing = {"TE": timing["TE"]}
    if missing:
        order = torch.randperm(len(bvals), generator=generator)
        threshold = (bs[0] + bs[1]) / 2
        played = bvals[order].numpy(), bvecs[order].numpy()
        return Acquisition(*played, b0_threshold=threshold, **timing)
    still = torch.zeros(b0, dtype=torch.float64)
    if _chance(generator, config.low_b0):
        still += round(_uniform(generator, 1.0, B0_THRESHOLD))
    order = torch.randperm(len(bvals), generator=generator)
    return _with_b0(bvals[order], bvecs[order], still, **timing)


def draw_timing(b: float, generator: torch.Generator) -> dict[str, float]:
    """Draw a gradient and an echo time that reach `b` [s/mm2]: delta, Delta and TE [ms].

    Of the gradients at hand, from the weakest that does it within 120 ms upwards. E. O. Stejskal,
    J. E. Tanner, J. Chem. Phys. 42 (1965) 288-292: b = (gamma G delta)^2 (Delta - delta / 3).
    """
    strongest = len(GRADIENTS) - 1
    weakest = next((k for k, g in enumerate(GRADIENTS) if duration(b, g) < 45.0), strongest)
    chosen = int(torch.randint(weakest, strongest + 1, (1,), generator=generator))
    delta = max(4.0, duration(b, GRADIENTS[chosen]))
    Delta = delta + REFOCUSING + _uniform(generator, 2.0, 12.0)
    TE = Delta + delta + _uniform(generator, *READOUT)
    return {"delta": round(delta, 1), "Delta": round(Delta, 1), "TE": round(TE, 1)}


def duration(b: float, gradient: float) -> float:
    """Duration [ms] of gradients [mT/m], `REFOCUSING` apart, that reach `b` [s/mm2].

    The root of (gamma G)^2 delta^2 (2 delta / 3 + gap) = b, by Newton's method.
    """
    wanted = b / 1e3 / (GAMMA * gradient) ** 2
    delta = (1.5 * wanted) ** (1 / 3)
    for _ in range(20):
        value = delta**2 * (2 * delta / 3 + REFOCUSING) - wanted
        delta -= value / (2 * delta**2 + 2 * REFOCUSING * delta)
    return delta


def _shells(count: int, b: tuple[float, float], generator: torch.Generator) -> list[float]:
    """Draw rising b-values, low ones more often, apart enough to be shells: multiples of 50."""
    low, high = b
    top = _uniform(generator, max(low, 700.0 * count), max(high, 700.0 * count)) ** 0.5
    top = min(high, max(700.0 * count, top**2 * _uniform(generator, 0.4, 1.0)))
    steps = torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
    edges = low + (top - low) * steps.cumsum(0) / steps.sum()
    return [float(50 * round(float(v) / 50)) for v in edges]


def _weighted(
    bs: list[float], volumes: int, generator: torch.Generator, config: ProtocolConfig
) -> tuple[Tensor, Tensor]:
    """Draw the weighted volumes, shell by shell: (k,) b-values and (k, 3) directions."""
    share = torch.rand(len(bs), generator=generator, dtype=torch.float64) + 0.5
    counts = (share / share.sum() * volumes).floor().long().clamp(min=1)
    counts[-1] += max(0, volumes - int(counts.sum()))
    names, weights = zip(*config.styles, strict=True)
    which = int(torch.multinomial(torch.tensor(weights), 1, generator=generator))
    style = STYLES[names[which]]
    bvecs = torch.cat([style(int(n), generator) for n in counts])
    bvals = torch.tensor(bs, dtype=torch.float64).repeat_interleave(counts)
    if _chance(generator, config.jitter):
        noise = torch.randn(len(bvals), generator=generator, dtype=torch.float64)
        bvals = (bvals * (1 + config.jitter_size * noise.clamp(-3, 3))).round()
    return bvals, bvecs


def _with_b0(bvals: Tensor, bvecs: Tensor, still: Tensor, **timing: float) -> Acquisition:
    """Put the b0 volumes first and then at equal distances."""
    at = torch.linspace(0, len(bvals), len(still) + 1)[: len(still)].round()
    place = torch.cat([at - 0.5, torch.arange(len(bvals))])
    order = torch.argsort(place, stable=True)
    directions = torch.cat([torch.zeros(len(still), 3, dtype=torch.float64), bvecs])
    if still.any():  # a weak weighting has a direction too
        directions[: len(still)] = bvecs[0]
    return Acquisition(
        torch.cat([still, bvals])[order].numpy(), directions[order].numpy(), **timing
    )


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))


def _chance(generator: torch.Generator, share: float) -> bool:
    return float(torch.rand(1, generator=generator)) < share
