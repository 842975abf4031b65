"""Audits of a detector: feature reliance, degradation, adversarial examples, and leave-one-out generalisation."""
