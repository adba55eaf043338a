"""`pcgen info`."""

from __future__ import annotations

import click

from .options import json_option
from .output import write_json, write_pairs


@click.command("info")
@click.argument("file")
@json_option
def command(file: str, as_json: bool) -> None:
    """Show what the checkpoint FILE holds.

    Only its header is read, so this is quick for a large file too.
    """
    import pcgen

    header = pcgen.info(file)
    if as_json:
        write_json("info", {"model": header.pop("file"), "header": header})
        return
    # A detector's recipe is that of the model within.
    inner = header.get("model") if header.get("kind") == "detector" else {}
    tables = header.pop("recipe", None) or (inner or {}).get("recipe", {})
    tensors = header.pop("tensors", {})
    # A classifier's recipe has a model too, by default: it is not what was trained.
    kind = "model" if tables.get("classifier") is None else "classifier"
    recipe = {"recipe": tables.get("name"), "seed": tables.get("seed"), kind: tables.get(kind)}
    write_pairs({**header, **recipe, "tensors": len(tensors)})
    click.echo(f"All of it: pcgen info {file} --json", err=True)
