"""`python -m pcgen` is the command line."""

from pcgen.cli.main import main

main()
