"""Networks on the sparse scan, as its methods are: `Codebook` and the published one."""

from __future__ import annotations

import _baselines
import _gaussian
import numpy as np
from _sparse import Fitted

METRICS = ("FA", "MD", "MK", "MSK", "MK_iso", "NDI", "ODI", "FWF")
"""That are compared."""


def under_test(weights: str):
    """Return the codebook with these weights as a method."""
    from DMRIMicroLib.codebooks.estimate import codebook

    def work(scan) -> Fitted:
        maps = codebook(scan, weights=weights, device="cpu")
        return Fitted(in_mask(maps, scan), {"codebook": by_space(scan, weights)})

    return work


def published(weights: str):
    """Return `demic` with these weights as a method; it cannot tell of one shell."""
    from DMRIMicroLib.codebooks.demic_maps import demic
    from DMRIMicroLib.errors import NotIdentifiable

    def work(scan) -> Fitted | str:
        try:
            return Fitted(in_mask(demic(scan, weights=weights, device="cpu"), scan))
        except NotIdentifiable as error:
            return str(error)

    return work


def in_mask(maps, scan) -> dict[str, np.ndarray]:
    """Take the metrics of the voxels of the mask, as the baselines tell them."""
    values = {k: np.asarray(maps[k])[scan.mask] for k in METRICS if k in maps}
    values["MD"] = values["MD"] * _baselines.UM2_MS
    if "MK" in values:
        values["MK"] = np.clip(values["MK"], *_baselines.KURTOSIS)
    return values


def by_space(scan, weights: str):
    """Return the prediction of signals by the posterior in the signal space."""
    import torch

    from DMRIMicroLib.codebooks.slices import open_codebook, predictions
    from DMRIMicroLib.codebooks.stack import on_grid, slice_order

    loaded, device = open_codebook(weights), torch.device("cpu")
    _, usable, (numbers,) = predictions(scan, loaded, lambda found, means: (found.space,), device)
    order = slice_order(usable)
    found = [on_grid(v, order, usable.shape)[scan.mask] for v in numbers.T]
    in_order = torch.from_numpy(np.stack(found, 1))

    def predict(asked) -> np.ndarray:
        return _gaussian.signal(loaded.space, in_order, asked, _gaussian.frame_of(scan)).numpy()

    return predict
