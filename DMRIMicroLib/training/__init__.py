"""Training of the learned methods: streams of simulated brains."""

from .pairs import PairConfig, Pairs, stream_pairs
from .stream import Patches, StreamConfig, stream

__all__ = ["PairConfig", "Pairs", "Patches", "StreamConfig", "stream", "stream_pairs"]
