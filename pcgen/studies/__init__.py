"""Studies of how inference and learning work."""
