"""The shipped recipes and models, one folder each. Installed as `pcgen.models`."""
