"""`pcgen report`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import json_option, out_option
from .output import write_json


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@out_option("The page's file.  [default: RUN/report.html]")
@json_option
def command(run: Path, out: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page of the folder RUN.

    Curves, pictures, metrics, the recipe and the environment. The page loads nothing from anywhere.
    """
    from pcgen.report import run_page

    page = run_page.write(run, out or run / "report.html")
    if as_json:
        write_json("report", {"page": page})
    else:
        click.echo(page)
