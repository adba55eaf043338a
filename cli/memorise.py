"""`pcgen memorise`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import (
    data_dir_option,
    device_option,
    json_option,
    limit_option,
    out_option,
    quiet_option,
)
from .output import write_json, write_pairs
from .progress import Story


@click.command("memorise")
@click.argument("model")
@click.argument("data")
@out_option("File of the new memory.")
@limit_option
@device_option
@data_dir_option
@json_option
@quiet_option
def command(
    model: str,
    data: str,
    out: Path | None,
    limit: int | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
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
        result = pcgen.memorise(
            model, data, out, limit=limit, device=device, data_dir=data_dir, on_progress=story
        )
    if as_json:
        write_json("memorise", result.document())
    else:
        write_pairs(result.document(), "Memorised")
