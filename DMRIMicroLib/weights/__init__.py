"""Trained networks: `<name>-<version>.safetensors`, each with a model card, `.json`, beside it."""

from .store import Card, available, load, save, verify

__all__ = ["Card", "available", "load", "save", "verify"]
