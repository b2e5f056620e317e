r"""Random diffeomorphisms of the head, and what they do to fibres.

A point x of the new head lies at :math:`A \exp(v)(x)` of the old one: a stationary velocity field
v, exponentiated by scaling and squaring (V. Arsigny, O. Commowick, X. Pennec, N. Ayache, MICCAI
2006, LNCS 4190, 924-931), then an affine map A. Fibres are material lines, so their tangents are
carried along by the inverse of its Jacobian, which is what the preservation of the principal
direction does for each of them (D. C. Alexander, C. Pierpaoli, P. J. Basser, J. C. Gee, IEEE Trans.
Med. Imaging 20 (2001) 1131-1139).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .fields import EXTENT, Field, Image, draw_field

SQUARINGS = 6
"""The velocity is divided by 2 to that power before the field is squared that often."""

FINER = 4
"""Points of the grid on which that is done for each control point, along each axis."""


@dataclass(frozen=True)
class DeformationConfig:
    """Standard deviations of the random maps.

    Attributes
    ----------
    translation : float
        Shift [mm].
    rotation : float
        Angle about each axis [degrees].
    scale : float
        Logarithm of the scale along each axis.
    shear : float
        Off-diagonal entries.
    amplitude : float
        Velocity along each axis [mm].
    spacing : float
        Distance of the velocity's control points [mm].
    """

    translation: float = 3.0
    rotation: float = 5.0
    scale: float = 0.05
    shear: float = 0.03
    amplitude: float = 3.0
    spacing: float = 32.0


@dataclass(frozen=True, eq=False)
class Push:
    """Room made by a mass: what lay within its width is spread, what lay around is displaced.

    Attributes
    ----------
    centre : (3,) tensor
        In the old head, from its middle [mm].
    width : float
        Standard deviation of the displacement's Gaussian envelope [mm].
    strength : float
        0 none; below 1, the map is invertible.
    """

    centre: Tensor
    width: float
    strength: float


@dataclass(frozen=True, eq=False)
class Deformation:
    """Map of the new head onto the old one, about the middle of the head.

    Attributes
    ----------
    linear : (3, 3) float64 tensor
    shift : (3,) float64 tensor
        [mm].
    velocity : Field
        Three channels [mm].
    push : Push or None
        Applied last.
    """

    linear: Tensor
    shift: Tensor
    velocity: Field
    push: Push | None = None

    def on(self, centre: Tensor, device: torch.device | str = "cpu") -> Warp:
        """Make it ready for a head whose middle is at `centre` (3,) [mm]."""
        return Warp(self, centre, device)


class Warp:
    """A deformation ready to be applied to points of one head.

    Parameters
    ----------
    deformation : Deformation
    centre : (3,) tensor
        Middle of the head, RAS [mm].
    device : torch.device or str

    Raises
    ------
    InputError
        If the velocity is so strong that its exponential folds on the grid it is computed on.
    """

    def __init__(self, deformation: Deformation, centre: Tensor, device: torch.device | str):
        self.centre = centre.to(device, torch.float32)
        self.linear = deformation.linear.to(device, torch.float32)
        self.shift = deformation.shift.to(device, torch.float32)
        self.push = deformation.push
        self.field, least = _exponential(deformation.velocity, device)
        if least <= 0:
            raise InputError(
                f"a deformation with control points {deformation.velocity.spacing:.0f} mm apart "
                "folds space",
                "Lower its amplitude, or widen its spacing.",
            )

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where points of the new head come from.

        Parameters
        ----------
        points : (n, 3) float32 tensor
            RAS [mm].

        Returns
        -------
        source : (n, 3) tensor
            RAS of the old head [mm].
        jacobian : (n, 3, 3) tensor
            Derivatives of `source` (rows) by `points` (columns).
        """
        x = points - self.centre
        local = self.field(x)
        source = (x + local[:, :3]) @ self.linear.T + self.shift
        eye = torch.eye(3, device=x.device)
        jacobian = self.linear @ (eye + local[:, 3:].reshape(-1, 3, 3))
        if self.push is not None:
            source, by = make_room(source, self.push)
            jacobian = by @ jacobian
        return source + self.centre, jacobian


def draw_deformation(
    generator: torch.Generator, config: DeformationConfig, size: float = 1.0
) -> Deformation:
    """Draw a random map; the new head is `size` times as large on average."""
    normal = torch.randn(12, generator=generator, dtype=torch.float64)
    turn = _rotation(torch.deg2rad(config.rotation * normal[:3]))
    stretch = torch.diag(torch.exp(config.scale * normal[3:6] - math.log(size)))
    skew = torch.eye(3, dtype=torch.float64)
    skew[0, 1], skew[0, 2], skew[1, 2] = (config.shear * normal[6:9]).tolist()
    field = draw_field(generator, 3, config.spacing)
    velocity = Field(config.amplitude * field.values)
    return Deformation(turn @ stretch @ skew, config.translation * normal[9:], velocity)


def make_room(points: Tensor, push: Push) -> tuple[Tensor, Tensor]:
    """Map of the displaced head onto the one before: (n, 3) -> (n, 3), Jacobian (n, 3, 3).

    r -> r (1 - a exp(-r^2 / 2 w^2)), which rises with r for a < 1.
    """
    d = points - push.centre.to(points)
    envelope = push.strength * torch.exp(-d.square().sum(-1) / (2 * push.width**2))
    along = (envelope / push.width**2)[:, None, None] * d[:, :, None] * d[:, None, :]
    eye = torch.eye(3).to(points)
    return points - envelope[:, None] * d, (1 - envelope)[:, None, None] * eye + along


def carry(directions: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Carry fibre directions of the old head into the new one.

    A population that is narrowly spread about its axis is widened by stretch across and narrowed
    by stretch along it: its angles scale by the ratio of the two, so that a Watson concentration
    scales by the ratio's inverse square, lambda_par^2 / lambda_perp^2 with lambda_par lambda_perp^2
    = det.

    Parameters
    ----------
    directions : (n, k, 3) tensor
        Unit vectors, or zero.
    jacobian : (n, 3, 3) tensor
        Of the map from the new head to the old.

    Returns
    -------
    directions : (n, k, 3) tensor
        Unit vectors, or zero.
    sharper : (n, k) tensor
        Factor of the concentration.
    """
    # the adjugate by cross products: the inverse times the determinant, faster than a batch of LU
    a, b, c = jacobian.unbind(-2)
    adjugate = torch.stack([torch.cross(b, c, -1), torch.cross(c, a, -1), torch.cross(a, b, -1)], 1)
    det = (a * adjugate[:, 0]).sum(-1)  # old volume per new volume
    moved = directions @ (adjugate / det[:, None, None])  # rows of the adjugate's transpose
    along = moved.norm(dim=-1)
    sharper = along**3 * det[:, None]
    return moved / along.clamp_min(1e-6)[..., None], torch.where(along > 0, sharper, 1.0)


def _exponential(velocity: Field, device: torch.device | str) -> tuple[Image, float]:
    """Displacement (3) and its derivatives (9) on a grid; the least determinant of the map."""
    grid = velocity.dense(device, FINER)
    n = grid.shape[0]
    step = EXTENT / (n - 1)
    axis = torch.arange(n, device=device) * step - EXTENT / 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    affine = torch.diag(torch.tensor([step, step, step, 1.0], dtype=torch.float64))
    affine[:3, 3] = -EXTENT / 2
    shift = grid.rows / 2**SQUARINGS
    for _ in range(SQUARINGS):
        shift = shift + Image(shift.T.reshape(3, n, n, n), affine)(points + shift)
    volume = shift.T.reshape(3, n, n, n)
    slopes = torch.stack(torch.gradient(volume, spacing=step, dim=(1, 2, 3)), 1)  # (3, 3, ...)
    jacobian = slopes.reshape(9, -1).T.reshape(-1, 3, 3) + torch.eye(3, device=device)
    least = float(torch.linalg.det(jacobian).min())
    return Image(torch.cat([volume, slopes.reshape(9, n, n, n)]), affine), least


def _rotation(angles: Tensor) -> Tensor:
    """Rotate about the axis `angles` by its length: (3,) radians -> (3, 3)."""
    x, y, z = angles.tolist()
    spin = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(spin)
