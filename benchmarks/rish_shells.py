"""Scale maps of one shell, applied to another: which rule is nearest to the 7 T scan.

Lambda is that of the pairs themselves at b = 1000 s/mm2, so that nothing is learned; the shell at
b = 2000 is scaled by each rule, and the roots of its features are held against those of the 7 T
scan: sum of squared errors over the sum of squares, for orders 0, 2, 4.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from _common import Results

from DMRIMicroLib.brain.ownscan import open_anatomy
from DMRIMicroLib.brain.simulate import generator_for
from DMRIMicroLib.rish.data import TEST, Look
from DMRIMicroLib.rish.features import harmonics
from DMRIMicroLib.rish.scale import scale_maps
from DMRIMicroLib.training.pairs import PairConfig, draw_pair

FIRST, OTHER = 1000.0, 2000.0
EDGE = 2
"""Voxels at the border of a patch that do not count."""

RULES = {
    "none": lambda scale: torch.ones_like(scale),
    "same": lambda scale: scale,
    "order 0 only": lambda scale: torch.stack([scale[0], *torch.ones(2, scale.shape[1])]),
    "Gaussian": lambda scale: scale * scale[0] ** (OTHER / FIRST - 1),
}


def measure(pair, clean: bool) -> dict:
    """Compare the rules on one pair of batches."""
    looks = []
    for batch in pair:
        signal = (batch.clean if clean else batch.signal)[0].float()
        for b in (FIRST, OTHER):
            made = harmonics(signal, batch.acquisition, b)
            looks.append(Look(made, batch.mask[0], batch.affine[0].numpy()))
    affine, shape = looks[0].affine, tuple(looks[0].mask.shape)
    seen = [look.on(affine, shape) for look in looks]
    inner = torch.zeros(shape, dtype=torch.bool)
    inner[(slice(EDGE, -EDGE),) * 3] = True
    mask = inner & seen[0][1] & seen[2][1]
    low, low_other, high, high_other = (features[:, mask] for features, _ in seen)
    scale, truth = scale_maps(high, low), scale_maps(high_other, low_other)
    told = {"voxels": int(mask.sum())}
    for name, rule in RULES.items():
        error = rule(scale) * low_other.sqrt() - high_other.sqrt()
        told[name] = (error.square().sum(1) / high_other.sum(1)).tolist()
    logs = scale.log(), truth.log()
    told["slope"] = ((logs[0] * logs[1]).sum(1) / logs[0].square().sum(1)).tolist()
    told["correlation"] = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(*logs, strict=True)]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--anatomies", default="small")
    options = parser.parse_args()
    heads = [open_anatomy(name) for name in options.anatomies.split(",")]
    config = PairConfig(patch=(options.patch,) * 3, brain=0.6)
    machines = [
        (scanner, acq.subset(np.flatnonzero(acq.bvals < 1.25 * OTHER)))
        for scanner, acq in (config.first, config.second)
    ]
    config = replace(config, first=machines[0], second=machines[1])
    results = Results("rish_shells")
    for k in range(options.pairs):
        generator = generator_for(TEST, f"shells {k}")
        pair = draw_pair(heads, generator, config, torch.device("cpu"))
        told = {"clean": measure(pair, True), "measured": measure(pair, False)}
        results.put(f"patch {options.patch}", f"pair {k}", value=told)


if __name__ == "__main__":
    main()
