"""A training of a second, to be started by torchrun: two_processes.py FOLDER STEPS."""

import sys
from pathlib import Path

import torch
from torch import nn

from DMRIMicroLib.training.loop import Training, train


class Net(nn.Module):
    """With a parameter that the loss alone uses, and one that nobody does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.second = nn.Linear(3, 1)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.offset = nn.Parameter(torch.zeros(1))
        self.idle = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.layers(x)[:, 0]

    def more(self, x):
        """What a loss may ask for beside the forward pass."""
        return self.second(x)[:, 0]


def stream(first, step=1):
    number = first
    while True:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(8, 3, generator=generator)
        yield x, x @ torch.tensor([1.0, -2.0, 0.5]) + 3
        number += step


def loss(network, example, step):
    x, y = example
    value = (network(x) + network.more(x) + network.offset - y).square().mean()
    return value, {"loss": float(value.detach())}


def main(folder: Path, steps: int) -> None:
    settings = Training(steps=20, batch=4, rate=0.05, warmup=2, save_every=1, average=0.5)
    asked = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) > steps

    made = train(Net(), stream, loss, settings, folder, cancelled=enough)
    torch.save(made.state_dict(), folder / "made.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
