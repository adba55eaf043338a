"""Pixels as black or white."""

from pcgen.data.fit import binarised as binarised
