"""`pcgen datasets`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import data_dir_option, json_option
from .output import write_table


@click.command("datasets")
@data_dir_option
@json_option
def command(data_dir: Path | None, as_json: bool) -> None:
    """List the data sets: their contents, and where they are or how to get them."""
    import pcgen

    columns = ("name", "shape", "for", "where")
    write_table("datasets", "datasets", pcgen.datasets(data_dir=data_dir), as_json, columns)
