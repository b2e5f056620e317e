"""A short training of a tiny codebook, to be started by torchrun: POOL FOLDER; or POOL "pool"."""

import sys
from pathlib import Path

import torch
from test_codebook_training import tiny_pool
from tiny_codebook import tiny_network

from DMRIMicroLib.signals.space import Space
from DMRIMicroLib.training.codebook import example_stream, prior_loss, scale_of
from DMRIMicroLib.training.examples import ExampleConfig
from DMRIMicroLib.training.loop import Training, train
from DMRIMicroLib.training.mapped import find_space, map_slices

STEPS, BATCH, SLICES = 30, 4, 6


def mapped(pool: Path) -> tuple[list[Path], Space]:
    """Bring the slices of the pool into their signal space, if they are not there yet."""
    slices = sorted(pool.glob("*.safetensors"))
    space = find_space(slices)
    return map_slices(slices, pool / "signals", space), space


def main(pool: Path, folder: Path) -> None:
    """Train on the slices of the pool."""
    torch.set_num_threads(1)
    files, space = mapped(pool)
    settings = Training(steps=STEPS, batch=BATCH, warmup=5, save_every=1)
    stream = example_stream(files, space, 0, ExampleConfig(edge=16), workers=0)
    made = train(tiny_network(), stream, prior_loss(scale_of(files)), settings, folder)
    torch.save(made.state_dict(), folder / "made.pt")


if __name__ == "__main__":
    if sys.argv[2] == "pool":
        mapped(tiny_pool(Path(sys.argv[1]), SLICES))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
