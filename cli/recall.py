"""`pcgen recall`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    data_dir_option,
    device_option,
    json_option,
    jsonl_option,
    limit_option,
    out_option,
    quiet_option,
    seed_option,
)
from .output import write_result
from .progress import Story


@click.command("recall")
@click.argument("model")
@click.argument("data")
@click.option(
    "--corrupt",
    multiple=True,
    required=True,
    metavar="HOW",
    help="noise:S, mask:bottom (top, left, right), mask:75%, mask:FILE, occlude:K, or none: DATA"
    " are cues. Repeatable.",
)
@click.option(
    "--original", metavar="DATA", help="What the cues are of, row by row, to measure errors by."
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1e6),
    default=0.0,
    metavar="S",
    help="Standard deviation of noise that is in DATA already.",
)
@click.option(
    "--prior",
    type=click.Choice(["mixture", "gaussian", "none"]),
    default="mixture",
    show_default=True,
    help="On the latent: the single stored latents, their Gaussian, or none.",
)
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Gradient evaluations at most.")
@out_option("Folder for the picture, the arrays and the rows.")
@limit_option
@seed_option
@device_option
@data_dir_option
@json_option
@jsonl_option
@quiet_option
def command(
    model: str,
    data: str,
    out: Path | None,
    as_json: bool,
    as_jsonl: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Restore the images that MODEL has memorised from damaged ones.

    \b
    pcgen recall runs/memory tiny-imagenet --limit 50 --corrupt mask:bottom --out recalled
    pcgen recall runs/memory tiny-imagenet --limit 50 --corrupt occlude:8 --corrupt noise:0.1
    pcgen recall runs/memory cues/ --corrupt none --noise 0.1 --jsonl

    Hidden pixels are dropped from the energy. A dark pixel of mask:FILE hides; the file has the
    images' size. Each row says which stored image was recalled, and whether the cue is known: how
    much of it the memory leaves unexplained, beyond what noise would.
    """
    from pcgen.commands import memory as memories

    with Story(quiet) as story:
        result = memories.recall(model, data, out=out, on_progress=story, **given)
    write_result("recall", "Recalled", result, story, as_json=as_json, as_jsonl=as_jsonl)
