"""Learning: weights and precisions follow their own layer's errors."""
