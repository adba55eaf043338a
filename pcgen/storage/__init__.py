"""Files: checkpoints, run folders, and rows that a resumed job continues."""
