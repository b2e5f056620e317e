"""Non-negative sparse codes of many voxels at once.

A. Beck, M. Teboulle, SIAM J. Imaging Sci. 2 (2009) 183-202: FISTA, with the restart of
B. O'Donoghue, E. Candès, Found. Comput. Math. 15 (2015) 715-732, for

    x = argmin_{x >= 0}  x' G x / 2 - v' x + c' x,      G = A' A,  v = A' y,

the LASSO with a cost c_k of its own for every atom. Where x >= 0 the penalty is linear, and the
shrinkage of Beck and Teboulle's eq. 1.5 is a subtraction that stops at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 150
"""Steps (chosen)."""


def sparse_code(gram: Tensor, vector: Tensor, cost: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Find the codes.

    Parameters
    ----------
    gram : (n, k, k) tensor
        G of every voxel; its elements are not negative, as those of non-negative atoms are.
    vector : (n, k) tensor
        v
    cost : (k,) or (n, k) tensor
        c
    iterations : int

    Returns
    -------
    (n, k) tensor
        x >= 0.
    """
    # the largest row sum is a bound of the largest eigenvalue (Gershgorin), and close to it
    # where all elements are positive
    step = 1 / gram.sum(2).amax(1).clamp(min=torch.finfo(gram.dtype).tiny)[:, None]
    linear = vector - cost
    x = torch.zeros_like(vector)
    ahead, momentum = x, torch.ones_like(step)
    for _ in range(iterations):
        slope = torch.bmm(gram, ahead[:, :, None])[:, :, 0] - linear
        after = (ahead - step * slope).clamp(min=0)  # eq. 4.1
        move = after - x
        # momentum that leads uphill is given up, voxel by voxel
        uphill = ((ahead - after) * move).sum(1, keepdim=True) > 0
        momentum = torch.where(uphill, torch.ones_like(momentum), momentum)
        next_ = (1 + (1 + 4 * momentum.square()).sqrt()) / 2  # eq. 4.2
        ahead = after + torch.where(uphill, 0.0, (momentum - 1) / next_) * move  # eq. 4.3
        x, momentum = after, next_
    return x
