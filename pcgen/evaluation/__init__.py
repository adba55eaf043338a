"""Measurements, baselines and the tables they fill."""
