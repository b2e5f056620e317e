"""Noise-free signals of tissue as points of a small linear space, and what a scan says of them."""
