"""`pcgen report`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import json_option, out_option
from .output import write_json


@click.command("report")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@out_option("File of the page. [default: RUN/report.html, or beside the file]")
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the heat maps, if it is not in the folder of the scores.",
)
@json_option
def command(run: Path, out: Path | None, heatmaps: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page of RUN: a run, a detector or scores.

    \b
    pcgen report runs/mnist          # a run's folder
    pcgen report mnist.safetensors   # a detector
    pcgen report scores.csv          # scored inputs

    The page shows curves, pictures, metrics and the recipe. It loads nothing from the network.
    It takes over PNG files of RUN's own folder alone.
    """
    import pcgen

    page = pcgen.report(run, out, heatmaps=heatmaps)
    if as_json:
        write_json("report", {"page": page})
    else:
        click.echo(page)
