"""Classifiers: by backprop as the baseline, and by predictive coding."""
