"""`pcgen memorise`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import limit_option, out_option, run_options
from .output import write_document
from .progress import Story


@click.command("memorise")
@click.argument("model")
@click.argument("data")
@out_option("File of the new memory.")
@limit_option
@run_options
def command(out: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Store the images of DATA in the memory MODEL, in one step.

    \b
    pcgen memorise runs/memory new-pictures/ --out runs/larger.safetensors

    The images that MODEL already holds are not needed. old_change is the mean squared change per
    pixel of their reconstructions.
    """
    if out is None:
        raise click.UsageError("Missing --out, the new memory's file.")
    import pcgen

    with Story(quiet) as story:
        result = pcgen.memorise(out=out, on_progress=story, **options)
    write_document("memorise", result.document(), "Memorised", as_json)
