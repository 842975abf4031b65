"""Runs notebooks as stages of the DVC pipeline, reads its settings, renders its report."""
