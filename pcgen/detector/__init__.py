"""A detector: a trained network, its scores of known images, and what both say of new ones."""
