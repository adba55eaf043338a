"""Other predictive coding libraries, timed on the same network: each in its own environment."""
