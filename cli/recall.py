"""`pcgen recall`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import limit_option, out_option, rows_options, seed_option
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
    help="Damage to DATA: noise:S, mask:bottom (top, left, right), mask:75%, mask:FILE or"
    " occlude:K; none if DATA are damaged already. Repeatable.",
)
@click.option(
    "--original",
    metavar="DATA",
    help="The undamaged images, in the order of DATA, to measure the error by.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1e6),
    default=0.0,
    metavar="S",
    help="Standard deviation of the noise that DATA already have.",
)
@click.option(
    "--prior",
    type=click.Choice(["auto", "lookup", "groups", "gaussian", "none", "mixture"]),
    default="auto",
    show_default=True,
    help="Prior on the latent: look-up of the stored latents, groups of them, one Gaussian,"
    " or none; auto is the look-up, and a completion for unknown cues. mixture: older name of"
    " lookup.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    help="At most N gradient evaluations. [default: the model's]",
)
@out_option("Folder for the picture, the arrays and the rows. [default: a new one]")
@limit_option
@seed_option
@rows_options
def command(out: Path | None, as_json: bool, as_jsonl: bool, quiet: bool, **options: Any) -> None:
    """Restore images that MODEL has memorised from damaged copies.

    \b
    pcgen recall runs/memory tiny-imagenet --limit 50 --corrupt mask:bottom --out recalled
    pcgen recall runs/memory tiny-imagenet --limit 50 --corrupt occlude:8 --corrupt noise:0.1
    pcgen recall runs/memory cues/ --corrupt none --noise 0.1 --jsonl

    Hidden pixels do not count in the energy. mask:FILE is a picture of the images' size, whose dark
    pixels hide. Each row names the stored image that was recalled (item), and says whether the cue
    is known: whether noise alone explains what the memory leaves of it.
    """
    import pcgen
    from pcgen.commands.outputs import default_output

    out = out or (None if as_jsonl else default_output("recall"))
    with Story(quiet) as story:
        result = pcgen.recall(out=out, on_progress=story, **options)
    write_result("recall", "Recalled", result, story, as_json=as_json, as_jsonl=as_jsonl)
