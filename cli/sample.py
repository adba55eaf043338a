"""`pcgen sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from .options import (
    data_dir_option,
    device_option,
    json_option,
    limit_option,
    out_option,
    quiet_option,
    seed_option,
)
from .output import write_json, write_pairs
from .progress import Story


@click.command("sample")
@click.argument("model")
@click.option(
    "-n", "count", type=int, default=100, show_default=True, metavar="N", help="Number of samples."
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
    help="Hidden part: top, bottom, left or right; for tables column,column.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the model's recipe, as inference.sampling.step=0.2. Repeatable.",
)
@limit_option
@seed_option
@device_option
@data_dir_option
@json_option
@quiet_option
def command(
    model: str,
    count: int,
    out: Path | None,
    mode: Literal["ancestral", "chain"],
    chains: int | None,
    burn_in: int,
    thin: int,
    label: str | None,
    noise: bool | None,
    given: str | None,
    mask: str | None,
    settings: tuple[str, ...],
    limit: int | None,
    seed: int | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw N new images or rows from MODEL.

    \b
    pcgen sample mnist-sampler -n 100 --out digits.png
    pcgen sample mnist-sampler -n 40 --label 3 --out threes.png
    pcgen sample mnist-sampler -n 100 --mode chain --chains 20 --out chain.png
    pcgen sample mnist-sampler -n 8 --given mnist:test --mask top --out completed.png
    pcgen sample iris -n 150 --out flowers.csv

    MODEL is a checkpoint, a run's folder or a shipped model's name. A warning is printed if the
    chains have not mixed: if their R-hat is above 1.05.
    """
    import pcgen
    from pcgen.commands.outputs import default_output

    with Story(quiet) as story:
        result = pcgen.sample(
            model,
            count,
            out=out or default_output("sample", model),
            mode=mode,
            chains=chains,
            burn_in=burn_in,
            thin=thin,
            label=label,
            noise=noise,
            given=given,
            mask=mask,
            limit=limit,
            settings=settings,
            seed=seed,
            device=device,
            data_dir=data_dir,
            on_progress=story,
        )
    document = result.document()
    if as_json:
        write_json("sample", document)
    else:
        write_pairs(document, "Sampled")
    if result.warning:
        story.say(f"Warning: {result.warning}")
