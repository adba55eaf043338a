"""`pcgen study`: a command for each law."""

from __future__ import annotations

from typing import Any

import click

from .options import (
    count_option,
    data_dir_option,
    json_option,
    numbers_option,
    out_option,
    quiet_option,
    words_option,
)
from .output import write_table
from .progress import Story

_DEPTH_COLUMNS = (
    *("network", "latent", "width", "solver", "tolerance", "depth", "median", "worst", "exponent"),
)
_INFERENCE_COLUMNS = (
    *("model", "hidden_precision", "solver", "energy", "excess_median", "excess_worst"),
    *("above_least", "converged", "wrongly_converged", "steps"),
)


@click.group("study")
def command() -> None:
    """Measure how inference behaves."""


@command.command("depth", short_help="Steps of inference against depth.")
@numbers_option("--depths", default="4,8,16,32,64,128,256", help="Layers above the data.")
@numbers_option("--widths", default="32,128", help="Units of each layer.")
@words_option("--solvers", help="Of newton, errors, majorise, nesterov and descent. [default: all]")
@count_option("--steps", default=1000, help="The most steps of a solver.")
@click.option("--quick", is_flag=True, help="Depths 4, 8 and 16 at width 32.")
@out_option("Folder for the page and the numbers.")
@json_option
@quiet_option
def depth(
    quick: bool, solvers: tuple[str, ...], as_json: bool, quiet: bool, **options: Any
) -> None:
    """Count steps to a relative excess energy of 1e-2 and 1e-3, and fit the exponent of the depth.

    Networks are plain and residual; the latent is free or clamped. Steps are those of the median
    and of the worst image.
    """
    import pcgen

    if quick:
        options |= {"depths": (4, 8, 16), "widths": (32,)}
    with Story(quiet) as story:
        rows = pcgen.study_depth(solvers=solvers or None, on_progress=story, **options)
    write_table("study", "table", rows, as_json, _DEPTH_COLUMNS, "depth")


@command.command("inference", short_help="Excess energies of every solver on the shipped models.")
@words_option("--models", help="Names of shipped models. [default: all]")
@count_option("--limit", default=100, help="Images of each model's test set.")
@data_dir_option
@json_option
@quiet_option
def inference(as_json: bool, quiet: bool, **options: Any) -> None:
    """Follow where each solver ends down to a stationary point, in float64.

    Excess energies are relative. `converged` is the share of images that the bound calls so, and
    `wrongly_converged` the share of those that fall by more than the tolerance.
    """
    import pcgen

    with Story(quiet) as story:
        rows = pcgen.study_inference(on_progress=story, **options)
    write_table("study", "table", rows, as_json, _INFERENCE_COLUMNS, "inference")
