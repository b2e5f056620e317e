"""What differs between the networks that are trained alike: our codebook and `demic`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..codebooks.demic_maps import KIND as DEMIC
from ..codebooks.demic_maps import DemicSlices
from ..codebooks.network import Codebook, Prediction
from ..codebooks.recalibrate import tell_slice
from ..codebooks.scale import Scale
from ..codebooks.tokens import Tokens
from ..signals.space import Space
from .codebook import prior_loss
from .demic import demic_loss, two_shells
from .examples import Example, ExampleConfig
from .head import teach_head

if TYPE_CHECKING:
    from .recipe import Recipe

ABOUT = (
    "Estimates 24 metrics of 8 models, with standard deviations, from any diffusion scan with a b0 "
    "and a weighted volume. Trained on simulated brains only. Metrics that an acquisition does not "
    "determine lean on what tissue usually looks like. For research, not for diagnosis."
)

ABOUT_DEMIC = (
    "The published codebook network (demic), trained on the same simulated brains as our own: the "
    "baseline of benchmarks. Needs b0 images and two shells. For research, not for diagnosis."
)


@dataclass(frozen=True)
class Task:
    """Of one network.

    Attributes
    ----------
    about : str
        For the card.
    build : callable
        From the recipe to the network.
    loss : callable
        From the scale of the metrics to the loss of an example.
    examples : callable
        From how slices are scanned to how they are for this network.
    finish : callable
        What is done after the last step; see `_finish`.
    predict : callable
        From network and tokens to what it says of them as it is used.
    """

    about: str
    build: Callable[[Recipe], nn.Module]
    loss: Callable[[Scale], Any]
    examples: Callable[[ExampleConfig], ExampleConfig] = lambda config: config
    finish: Callable[..., Any] = lambda *everything: {}
    predict: Callable[[Any, Tokens], Prediction] = lambda network, tokens: network(tokens)


def _finish(
    network: Codebook,
    files: Sequence[Path],
    space: Space,
    scale: Scale,
    examples: Iterator[Example],
    recipe: Recipe,
    progress: Callable[[float], None],
) -> dict[str, float]:
    """Teach the head, which the training of the prior leaves as it was."""
    return teach_head(network, files, space, scale, examples, recipe.head, recipe.seed, progress)


TASKS = {
    "codebook": Task(
        ABOUT,
        lambda recipe: Codebook(recipe.shape()),
        prior_loss,
        finish=_finish,
        predict=tell_slice,
    ),
    DEMIC: Task(
        ABOUT_DEMIC,
        lambda recipe: DemicSlices(recipe.metrics(), **recipe.sizes()),
        demic_loss,
        two_shells,
    ),
}
"""By the name of the network, which is that of its recipe, its weights and their kind."""
