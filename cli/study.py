"""`pcgen study`: a command for each law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .bench import _numbers, _words
from .options import data_dir_option, json_option, out_option, quiet_option
from .output import write_json, write_rows
from .progress import Story

_DEPTH_COLUMNS = (
    "network",
    "latent",
    "width",
    "solver",
    "tolerance",
    "depth",
    "median",
    "worst",
    "exponent",
)
_INFERENCE_COLUMNS = (
    "model",
    "hidden_precision",
    "solver",
    "energy",
    "excess_median",
    "excess_worst",
    "above_least",
    "converged",
    "wrongly_converged",
    "steps",
)


@click.group("study")
def command() -> None:
    """Measure how inference behaves."""


@command.command("depth", short_help="Steps of inference against depth.")
@click.option(
    "--depths",
    default="4,8,16,32,64,128,256",
    show_default=True,
    metavar="N,...",
    help="Layers above the data.",
)
@click.option(
    "--widths", default="32,128", show_default=True, metavar="N,...", help="Units of each layer."
)
@click.option(
    "--solvers",
    metavar="W,...",
    help="Of newton, errors, majorise, nesterov and descent. [default: all]",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="The most steps of a solver.",
)
@click.option("--quick", is_flag=True, help="Depths 4, 8 and 16 at width 32.")
@out_option("Folder for the page and the numbers.")
@json_option
@quiet_option
def depth(
    depths: str,
    widths: str,
    solvers: str | None,
    steps: int,
    quick: bool,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count steps to a relative excess energy of 1e-2 and 1e-3, and fit the exponent of the depth.

    Networks are plain and residual; the latent is free or clamped. Steps are those of the median
    and of the worst image.
    """
    import pcgen

    with Story(quiet) as story:
        rows = pcgen.study_depth(
            (4, 8, 16) if quick else _numbers(depths, "--depths"),
            (32,) if quick else _numbers(widths, "--widths"),
            solvers=None if solvers is None else _words(solvers, "--solvers"),
            steps=steps,
            out=out,
            on_progress=story,
        )
    _show("depth", rows, _DEPTH_COLUMNS, as_json)


@command.command("inference", short_help="Excess energies of every solver on the shipped models.")
@click.option("--models", metavar="W,...", help="Names of shipped models. [default: all]")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Images of each model's test set.",
)
@data_dir_option
@json_option
@quiet_option
def inference(
    models: str | None, limit: int, data_dir: Path | None, as_json: bool, quiet: bool
) -> None:
    """Follow where each solver ends down to a stationary point, in float64.

    Excess energies are relative. `converged` is the share of images that the bound calls so, and
    `wrongly_converged` the share of those that fall by more than the tolerance.
    """
    import pcgen

    with Story(quiet) as story:
        rows = pcgen.study_inference(
            () if models is None else _words(models, "--models"),
            limit=limit,
            data_dir=data_dir,
            on_progress=story,
        )
    _show("inference", rows, _INFERENCE_COLUMNS, as_json)


def _show(study: str, rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        write_json("study", {"table": rows})
    else:
        write_rows(rows, columns, title=study)
