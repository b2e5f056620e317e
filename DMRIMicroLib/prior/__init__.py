"""PIGMENT-style zero-shot fitting: a generative prior of tissue, adapted to one scan by physics."""
