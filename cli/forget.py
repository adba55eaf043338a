"""`pcgen forget`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import device_option, json_option, out_option
from .output import write_document


@click.command("forget")
@click.argument("model")
@click.argument("items", nargs=-1, required=True, type=click.IntRange(0), metavar="ITEM...")
@out_option("File of the new memory.")
@device_option
@json_option
def command(
    model: str, items: tuple[int, ...], out: Path | None, device: str, as_json: bool
) -> None:
    """Remove stored images from the memory MODEL, by their numbers ITEM.

    \b
    pcgen forget runs/memory 17 40 --out runs/smaller.safetensors

    Numbers count from 0, in the order in which the images were stored; pcgen recall --jsonl prints
    them as item. The numbers after a removed image become smaller by one.
    """
    if out is None:
        raise click.UsageError("Missing --out, the new memory's file.")
    import pcgen

    result = pcgen.forget(model, items, out, device=device)
    write_document("forget", result.document(), "Forgotten", as_json)
