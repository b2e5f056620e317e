"""What a scanner adds to the signal besides noise: one drawing and one applying function each.

Images are (k, x, y, z) with k volumes; `phase` and `read` are the numbers of the image's two
in-plane axes, 0 and 1. Drawn numbers live on the CPU in double precision and know no grid, so that
the same draw can be put on any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .directions import small_rotation


@dataclass(frozen=True, eq=False)
class Bias:
    """Sensitivity of the receive coils: the exponential of low powers of the position.

    Attributes
    ----------
    coefficients : (9,) tensor
        Of x, y, z, x^2, y^2, z^2, xy, xz, yz, each coordinate -1 to 1 over the field of view.
    """

    coefficients: Tensor


SURFACE = (3, 4)
"""Coefficients of `Bias` that make the signal rise towards the coils: of x^2 and y^2."""


def draw_bias(generator: torch.Generator, strength: float, receive: float = 0.0) -> Bias:
    """Draw a bias field.

    `strength` is about the standard deviation of its logarithm, `receive` the mean of how much that
    rises from the middle to the edges: coils lie around the head and see best what is near them.
    """
    noise = torch.randn(9, generator=generator, dtype=torch.float64)
    coefficients = strength * noise / 1.5
    coefficients[list(SURFACE)] += receive
    return Bias(coefficients)


def bias_field(bias: Bias, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Factor of every voxel, 1 in the middle: (x, y, z)."""
    x, y, z = coordinates(shape, like)
    c = bias.coefficients.to(like)
    powers = (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    return torch.exp(sum(c[k] * p for k, p in enumerate(powers)))


def transmit_field(strength: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Loss of a spin echo where the transmit field is off its nominal strength: (x, y, z).

    The dielectric effect makes the field strong in the middle of the head and weak around it (P. F.
    Van de Moortele et al., Magn. Reson. Med. 54 (2005) 1503-1518): relative to the middle it falls
    by `strength` at the edges. A spin echo with nominal angles of 90 and 180 degrees and a field f
    times the nominal keeps sin(f 90) sin(f 90)^2 of its signal.
    """
    x, y, z = coordinates(shape, like)
    f = 1 + strength * (0.4 - (x * x + y * y + 0.5 * z * z))
    return torch.sin(math.pi / 2 * f).abs() ** 3


def noise_profile(strength: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Noise relative to its mean over the field of view: (x, y, z).

    Parallel imaging amplifies noise in the middle of the head, where coils are alike (K. P.
    Pruessmann et al., Magn. Reson. Med. 42 (1999) 952-962).
    """
    x, y, z = coordinates(shape, like)
    profile = 1 + strength * torch.exp(-2 * (x * x + y * y + 0.3 * z * z))
    return profile / profile.mean()


def line_response(
    count: int, out: int, kept: float, partial: float, like: Tensor, window: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Take a line of samples through a finite, partly filled k-space: two (out, count) matrices.

    The real and the imaginary part of what the inverse transform gives. Frequencies beyond `kept`
    of the output's are not measured (Gibbs ringing); of those on one side of the centre only the
    share 2 `partial` - 1 is (partial Fourier with zero filling: blur; M. A. Bernstein, K. F. King,
    X. J. Zhou, Handbook of MRI Pulse Sequences (2004), section 13.4).

    Parameters
    ----------
    count, out : int
        Samples before and after; `out` <= `count`, over the same distance.
    kept : float
        0 to 1.
    partial : float
        0.5 to 1: share of k-space that is measured.
    window : float
        0 to 1: how much the highest frequencies are damped against ringing, by a Hamming window
        (Handbook, section 13.1): 1 is that of Hann, 0 none.
    """
    real, imaginary = _line_response(count, out, kept, partial, window)
    return like.new_tensor(real), like.new_tensor(imaginary)


@lru_cache(maxsize=64)
def _line_response(
    count: int, out: int, kept: float, partial: float, window: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    frequency, weight = _kept_lines(out, kept, partial, window)
    there, here = (np.arange(out) + 0.5) / out, (np.arange(count) + 0.5) / count
    out_of, into = (np.exp(2j * np.pi * place[:, None] * frequency) for place in (there, here))
    response = (out_of * weight) @ into.conj().T / count
    return response.real, response.imag


def _kept_lines(
    out: int, kept: float, partial: float, window: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Frequencies that are measured, and how much they are damped."""
    high = math.floor(kept * (out - 1) / 2)
    frequency = np.arange(-math.floor((2 * partial - 1) * high), high + 1)
    return frequency, 1 - window * np.sin(np.pi / 2 * frequency / max(high, 1)) ** 2


def through_k_space(
    images: Tensor,
    shape: tuple[int, int],
    kept: float,
    partial: float,
    phase: int,
    window: float = 0.0,
) -> Tensor:
    """Magnitude of slices that were measured in a finite k-space: (k, x, y, z) -> (k, *shape, z).

    Parameters
    ----------
    images : (k, x, y, z) tensor
        At least as fine as `shape` in the plane.
    shape : (int, int)
        Voxels in the plane.
    kept, partial, phase, window
        See `line_response`; only the phase direction is filled partly.
    """
    read = 1 - phase
    across, _ = line_response(images.shape[1 + read], shape[read], kept, 1.0, images, window)
    count = images.shape[1 + phase]
    along, aside = line_response(count, shape[phase], kept, partial, images, window)
    images = _times(across, images, read)
    real = _times(along, images, phase)
    if partial == 1:
        return real.abs()
    return torch.hypot(real, _times(aside, images, phase))


def noise_colour(
    shape: tuple[int, int], kept: float, partial: float, phase: int, window: float, like: Tensor
) -> Tensor | None:
    """Return what a finite k-space leaves of white noise, per frequency: (x, y), or None if all.

    Noise is white where it is measured; frequencies that are not measured, or damped, have none or
    less of it. The mean square is 1: the variance stays what it was.
    """
    if kept == 1 and partial == 1 and window == 0:
        return None
    lines = []
    for axis, count in enumerate(shape):
        frequency, weight = _kept_lines(count, kept, partial if axis == phase else 1.0, window)
        line = np.zeros(count)
        line[frequency % count] = weight
        lines.append(line / np.sqrt(np.mean(line**2)))
    return like.new_tensor(lines[0][:, None] * lines[1])


def coloured(noise: Tensor, colour: Tensor) -> Tensor:
    """Give white noise, real and imaginary part, a colour within slices: (2, k, x, y, z), the same.

    White noise is white in any order: its numbers are taken as those of k-space where they lie side
    by side, which is three times as fast as an order that means something. They are overwritten.
    """
    _, k, x, y, z = noise.shape
    spectrum = torch.view_as_complex(noise.contiguous().view(k, z, x, y, 2)).mul_(colour)
    image = torch.fft.ifft2(spectrum, norm="ortho")
    return torch.view_as_real(image).permute(4, 0, 2, 3, 1)


@dataclass(frozen=True)
class Ghost:
    """Nyquist ghost: even and odd lines that do not match (`level` of the signal, a phase)."""

    level: float
    phase: float


def draw_ghost(generator: torch.Generator, strength: float) -> Ghost:
    """Draw a ghost of up to `strength` of the signal."""
    level, phase = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return Ghost(strength * level, 2 * math.pi * phase)


def add_ghost(images: Tensor, ghost: Ghost, phase: int) -> Tensor:
    """Magnitude with the image of half the field of view away added: (k, x, y, z)."""
    there = images.roll(images.shape[1 + phase] // 2, 1 + phase)
    real, imaginary = math.cos(ghost.phase), math.sin(ghost.phase)
    here = torch.add(images, there, alpha=ghost.level * real)
    return torch.hypot(here, there.mul_(ghost.level * imaginary))


@dataclass(frozen=True, eq=False)
class Dropouts:
    """Slices that lost signal to motion during the gradients: (e,) volume, place (0-1), factor."""

    volume: Tensor
    place: Tensor
    factor: Tensor


def draw_dropouts(generator: torch.Generator, volumes: Tensor, share: float) -> Dropouts:
    """Draw lost slices: in a `share` of the weighted volumes (numbers (k,)), one or some each."""
    uniform = torch.rand(3, len(volumes), generator=generator, dtype=torch.float64)
    hit = uniform[0] < share
    return Dropouts(volumes.cpu()[hit], uniform[1, hit], 0.7 * uniform[2, hit])


def drop_slices(images: Tensor, volumes: Tensor, dropouts: Dropouts) -> Tensor:
    """Scale the slices that lost signal: (k, x, y, z) of volumes (k,) -> (k, x, y, z)."""
    if not len(dropouts.volume):
        return images
    slices = images.shape[3]
    factor = torch.ones(len(volumes), slices, dtype=torch.float64)
    for row, number in enumerate(volumes.tolist()):
        for at in (dropouts.volume == number).nonzero()[:, 0]:
            first = int(dropouts.place[at] * slices)
            factor[row, first : first + 2] = dropouts.factor[at]
    return images * factor.to(images)[:, None, None, :]


@dataclass(frozen=True, eq=False)
class Motion:
    """Poses of the head.

    Attributes
    ----------
    pose : (m,) int64 tensor
        Of each volume.
    turn : (p, 3, 3) float64 tensor
        Rotations in RAS; the first is none.
    shift : (p, 3) float64 tensor
        [mm]
    """

    pose: Tensor
    turn: Tensor
    shift: Tensor

    def moved(self, affine: Tensor, shape: tuple[int, ...], pose: int) -> Tensor:
        """Affine of a head that turns about the middle of its grid and shifts."""
        last = torch.tensor(shape, dtype=torch.float64).to(affine) - 1
        middle = affine[:3, :3] @ (last / 2) + affine[:3, 3]
        turn = self.turn[pose].to(affine)
        out = affine.clone()
        out[:3, :3] = turn @ affine[:3, :3]
        out[:3, 3] = turn @ (affine[:3, 3] - middle) + middle + self.shift[pose].to(affine)
        return out


def draw_motion(
    generator: torch.Generator, volumes: int, moves: int, degrees: float, mm: float
) -> Motion:
    """Draw `moves` changes of the head's pose, at random times, each from where it was before."""
    times = torch.randint(1, max(volumes, 2), (moves,), generator=generator).sort().values
    pose = torch.searchsorted(times, torch.arange(volumes), right=True)
    steps = torch.randn(moves, 6, generator=generator, dtype=torch.float64).cumsum(0)
    steps = torch.cat([torch.zeros(1, 6, dtype=torch.float64), steps])
    turn = torch.stack([small_rotation(degrees * step[:3]) for step in steps])
    return Motion(pose, turn, mm * steps[:, 3:])


def coordinates(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Positions from -1 to 1 over the field of view, along each axis."""
    # a single slice lies in the middle
    ends = (-1.0 if n > 1 else 0.0 for n in shape)
    axes = [
        torch.linspace(a, -a, n, dtype=torch.float64).to(like)
        for a, n in zip(ends, shape, strict=True)
    ]
    return torch.meshgrid(*axes, indexing="ij")


def _times(matrix: Tensor, images: Tensor, axis: int) -> Tensor:
    """Apply a matrix along an in-plane axis: (k, x, y, z)."""
    if axis == 0:
        k, x, y, z = images.shape
        return (matrix @ images.reshape(k, x, y * z)).reshape(k, -1, y, z)
    if images.shape[-1] == 1:  # one product for all rows, not one for each
        return (images[..., 0] @ matrix.T)[..., None]
    return matrix @ images
