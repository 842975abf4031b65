"""Training of a network on a store."""

from aasist_lib.training.loop import Diverged, fit

__all__ = ["Diverged", "fit"]
