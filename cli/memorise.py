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
@click.option("--check", is_flag=True, help="Show what the addition would cost, and write nothing.")
@limit_option
@run_options
def command(out: Path | None, check: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Store the images of DATA in the memory MODEL, in one step.

    \b
    pcgen memorise runs/memory new-pictures/ --out runs/larger.safetensors
    pcgen memorise runs/memory new-pictures/ --check

    The images that MODEL already holds are not needed. old_change is the mean squared change per
    pixel of their reconstructions. Images beyond room, the number that MODEL can still hold
    exactly, are stored as well as its weights can show them.
    """
    if out is None and not check:
        raise click.UsageError("Missing --out, the new memory's file.")
    import pcgen

    with Story(quiet) as story:
        result = pcgen.memorise(out=out, check=check, on_progress=story, **options)
    write_document("memorise", result.document(), "Checked" if check else "Memorised", as_json)
