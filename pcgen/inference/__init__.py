"""Inference: the states of least energy."""
