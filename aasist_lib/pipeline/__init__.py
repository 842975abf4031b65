"""Runs notebooks as stages of the DVC pipeline, and writes their report."""
