"""Networks on RISH features too small to know anything, and smooth random features."""

import torch
from torch import Tensor, nn
from torch.nn import functional

AUTOENCODER = {"channels": (4, 8), "layers": 1, "codes": 8, "dimension": 4}
DENOISER = {"widths": (4, 8), "heads": 4, "groups": 2, "dimension": 4}
DETAIL = {"widths": (4, 8), "blocks": 1}


def blob(rows: int, shape: tuple[int, ...], seed: int = 0, channels: int = 3) -> Tensor:
    """Return smooth random values of order 1: (rows, channels, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(rows, channels, 4, 4, 4, generator=generator)
    return functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)


def stirred(network: nn.Module) -> nn.Module:
    """Give layers that start at zero random weights, so that everything has a say."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            if not value.any():
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return network
