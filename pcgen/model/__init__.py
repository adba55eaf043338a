"""The network and its energy."""
