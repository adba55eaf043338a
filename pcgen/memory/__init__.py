"""Associative memory: store images, recall them from damaged cues, write and forget."""
