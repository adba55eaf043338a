"""`pcgen sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import limit_option, out_option, run_options, seed_option, settings_option
from .output import write_document
from .progress import Story


@click.command("sample")
@click.argument("model")
@click.option(
    "-n", "n", type=int, default=100, show_default=True, metavar="N", help="Number of samples."
)
@out_option("File for the samples: .png, .npz, or .csv for a table. [default: a new samples.png]")
@click.option(
    "--mode",
    type=click.Choice(["ancestral", "chain"]),
    default="ancestral",
    show_default=True,
    help="ancestral: independent draws from the prior down; chain: Langevin chains.",
)
@click.option("--chains", type=int, metavar="C", help="Chains at once. [default: N, at most 10]")
@click.option(
    "--burn-in",
    type=int,
    default=500,
    show_default=True,
    metavar="S",
    help="Steps of a chain before its first draw.",
)
@click.option(
    "--thin",
    type=int,
    default=50,
    show_default=True,
    metavar="S",
    help="Steps of a chain between two draws.",
)
@click.option("--label", metavar="K", help="Draw from one class: its number or its name.")
@click.option(
    "--noise/--mean",
    default=None,
    help="Add the output's noise, or give the mean. [default: noise for tables only]",
)
@click.option(
    "--given",
    metavar="DATA",
    help="Data of which --mask hides a part; N samples of it for each of the first 10 (--limit).",
)
@click.option(
    "--mask",
    metavar="PART",
    help="Hidden part: top, bottom, left, right, or a share such as 80%; for tables column,column.",
)
@settings_option("Set a key of the model's recipe, as inference.sampling.step=0.2. Repeatable.")
@limit_option
@seed_option
@run_options
def command(model: str, out: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Draw N new images or rows from MODEL.

    \b
    pcgen sample mnist-sampler -n 100 --out digits.png
    pcgen sample mnist-sampler -n 40 --label 3 --out threes.png
    pcgen sample mnist-sampler -n 8 --given mnist:test --mask top --out completed.png
    pcgen sample iris -n 150 --out flowers.csv

    MODEL is a checkpoint, a run's folder or a shipped model's name. A warning is printed if the
    chains have not mixed: if their R-hat is above 1.05.
    """
    import pcgen
    from pcgen.commands.outputs import default_output

    out = out or default_output("sample", model)
    with Story(quiet) as story:
        result = pcgen.sample(model, out=out, on_progress=story, **options)
    write_document("sample", result.document(), "Sampled", as_json)
    if result.warning:
        story.say(f"Warning: {result.warning}")
