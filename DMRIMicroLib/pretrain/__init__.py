"""Pretraining on scans of high quality, and fine-tuning on a handful of one's own."""

from .learning import Settings
from .make import finetune, pretrain
from .target import Target, read_scheme

__all__ = ["Settings", "Target", "finetune", "pretrain", "read_scheme"]
