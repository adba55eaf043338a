"""`pcgen doctor`."""

from __future__ import annotations

import click

from .options import json_option
from .output import write_json, write_rows


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show versions, devices, the state of torchvision, and missing data."""
    import pcgen

    rows = pcgen.doctor()
    if as_json:
        write_json("doctor", {"doctor": rows})
    else:
        write_rows(rows)
