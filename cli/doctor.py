"""`pcgen doctor`."""

from __future__ import annotations

import click

from .options import json_option
from .output import write_table


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show versions, devices, the state of torchvision, and missing data."""
    import pcgen

    write_table("doctor", "doctor", pcgen.doctor(), as_json)
