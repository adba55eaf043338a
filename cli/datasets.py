"""`pcgen datasets`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import data_dir_option, json_option
from .output import write_json, write_rows


@click.command("datasets")
@data_dir_option
@json_option
def command(data_dir: Path | None, as_json: bool) -> None:
    """List the data sets: their contents, and where they are or how to get them."""
    import pcgen

    rows = pcgen.datasets(data_dir=data_dir)
    if as_json:
        write_json("datasets", {"datasets": rows})
    else:
        write_rows(rows)
