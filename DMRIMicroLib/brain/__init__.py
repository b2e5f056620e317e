"""The digital brain: real anatomy, simulated tissue, simulated scanners, known truth."""
