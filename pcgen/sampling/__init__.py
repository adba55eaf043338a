"""Sampling: states drawn from exp(-E)."""
