"""Training of a network on a store, and its scores."""

from aasist_lib.training.loop import Diverged, fit, scores

__all__ = [
    "Diverged",
    "fit",
    "scores",
]
