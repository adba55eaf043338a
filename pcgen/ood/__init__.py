"""Unusual data: scores, calibration, detectors and their verdicts."""
