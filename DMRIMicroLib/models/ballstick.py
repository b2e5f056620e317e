"""Ball and stick: one fibre direction in isotropic surroundings.

T. E. J. Behrens, M. W. Woolrich, M. Jenkinson, H. Johansen-Berg, R. G. Nunes, S. Clare,
P. M. Matthews, J. M. Brady, S. M. Smith, Magn. Reson. Med. 50 (2003) 1077-1088.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.compartments import ball, stick
from ..physics.linalg import eigh3
from ..physics.weighting import weighting
from .base import NonlinearModel, Parameter
from .starts import log_tensor

NEEDS = Needs(volumes=6, shells=1, directions=6)


@dataclass(frozen=True)
class BallStick(NonlinearModel):
    """S(b, g) = S0 [(1 - f) exp(-b d) + f exp(-b d (g.u)^2)]: the partial volume model."""

    name: ClassVar[str] = "ballstick"
    title: ClassVar[str] = "Ball and stick"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("f_stick", "Stick fraction", window=(0, 0.6), needs=NEEDS),
        Metric(
            "stick_direction",
            "Stick direction",
            "",
            -1,
            1,
            (-1, 1),
            kind="vector",
            needs=NEEDS,
        ),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("f", 0.0, 1.0, "", "stick fraction"),
        Parameter("d", 0.0, 5.0, "um2/ms", "diffusivity of both"),
        Parameter("u", -1.0, 1.0, "", "stick direction", size=3),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (6, n) parameters -> (m, n)."""
        f, d, u, s0 = parameters[0], parameters[1], parameters[2:5], parameters[5]
        w = weighting(acq, parameters)
        b = w.b[:, None]
        return s0 * ((1 - f) * ball(b, d) + f * stick(b, w.g @ u, d))

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (6, n) -> (m, n) and (6, m, n)."""
        f, d, u, s0 = parameters[0], parameters[1], parameters[2:5], parameters[5]
        w = weighting(acq, parameters)
        b, cos = w.b[:, None], w.g @ u
        isotropic, along = ball(b, d), stick(b, cos, d)
        jacobian = parameters.new_empty(6, *cos.shape)
        torch.sub(along, isotropic, out=jacobian[0])
        torch.addcmul(isotropic, jacobian[0], f, out=jacobian[5])  # signal / S0
        jacobian[0].mul_(s0)
        # what follows is by the exponents: d stick / d(b d cos^2) = -stick
        along.mul_(f * s0).mul_(b).mul_(cos)
        torch.addcmul(isotropic.mul_((1 - f) * s0).mul_(b), along, cos, out=jacobian[1]).neg_()
        torch.mul(w.g.T[:, :, None], along.mul_(-2 * d), out=jacobian[2:5])
        return jacobian[5] * s0, jacobian

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose what the tensor says: (m, n) signal -> (1, 6, n).

        To first order in b the model is a tensor with d along the stick and (1 - f) d across it.
        """
        tensor = log_tensor(acq, signal.clone())
        (along, middle, least), u = eigh3(tensor[:6])
        d = along.clamp(min=0.1)
        f = 1 - ((middle + least) / 2).clamp(min=0) / d
        return torch.cat([f.clamp(0.05, 0.95)[None], d[None], u, tensor[6:]])[None]

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (6, n) parameters -> f_stick (n,), stick_direction (3, n)."""
        return {"f_stick": parameters[0], "stick_direction": parameters[2:5]}
