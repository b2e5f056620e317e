"""Codebooks: networks that tell metrics from rotation invariants of the signal."""
