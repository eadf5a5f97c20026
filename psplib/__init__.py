"""psplib: the reproducible companion of a paper on pruning, sharp minima and PSP-entropy."""

__version__ = "0.1.0"
