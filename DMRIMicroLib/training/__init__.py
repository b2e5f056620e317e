"""Training of the learned methods: streams of simulated brains."""

from .stream import Patches, StreamConfig, stream

__all__ = ["Patches", "StreamConfig", "stream"]
