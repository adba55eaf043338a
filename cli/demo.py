"""`pcgen demo`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import json_option, out_option, quiet_option
from .output import write_document
from .progress import Story


@click.command("demo")
@out_option("Folder for the run, the picture and the page.", default="demo")
@json_option
@quiet_option
def command(out: Path, as_json: bool, quiet: bool) -> None:
    """Try everything on embedded data, in about a minute.

    Trains on scikit-learn's 8x8 digits, shows how one digit settles, reconstructs held-out digits,
    draws new ones, recalls half-hidden ones, scores strange inputs, and writes a page for the
    browser.
    """
    import pcgen

    with Story(quiet) as story:
        result = pcgen.demo(out, on_progress=story)
    write_document("demo", result.document(), "Done", as_json)
    Story(quiet).say(f"Open in a browser: {result.page}")
