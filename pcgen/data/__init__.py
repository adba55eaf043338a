"""Data: names, paths and arrays become `Images`, tables whose rows are read when asked for."""
