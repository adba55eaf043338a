"""The command line: options and rendering only. Installed as `pcgen.cli`."""
