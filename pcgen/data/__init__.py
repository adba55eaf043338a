"""Data: names and paths become `Images`, tables whose rows are read when they are asked for."""
