"""Optional steps before a fit: noise by local PCA, denoising, removal of Gibbs ringing."""

from .local_pca import noise_by_pca
from .order import denoise, prepare, with_noise
from .ringing import degibbs

__all__ = ["degibbs", "denoise", "noise_by_pca", "prepare", "with_noise"]
