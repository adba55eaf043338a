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
from .output import write_json, write_table
from .progress import Story

_DEPTH_COLUMNS = (
    *("network", "latent", "width", "solver", "tolerance", "depth", "median", "worst", "exponent"),
)
_TRAINING = {
    "init": ("start,steps,rate", "Accuracy by the start of the states and the steps."),
    "energy": ("optimiser,width,rate,ratio,ratio_first", "Energies of the layers by rate."),
    "stability": ("optimiser,rule,rate,width", "Accuracy by width, rate and optimiser."),
    "precision": ("rule,precision,cosine,hidden_share", "From predictive coding to backprop."),
    "remedies": ("kind,rule,depth,cosine", "Accuracy by depth, with remedies for deep networks."),
}
_INFERENCE_COLUMNS = (
    *("model", "hidden_precision", "solver", "energy", "excess_median", "excess_worst"),
    *("above_least", "converged", "wrongly_converged", "steps"),
)


@click.group("study")
def command() -> None:
    """Measure how inference and training behave."""


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
@out_option("Folder for the page and the numbers.")
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


def _training_study(name: str, columns: str, summary: str) -> click.Command:
    """Return the command of a study of training; all have the same options."""

    @click.command(
        name,
        short_help=summary,
        help=f"{summary}\n\nTrains small classifiers and gives means over seeds with the ends of"
        " their 95 % intervals. The paragraph below the table says what is seen.",
    )
    @words_option("--data", help="Data sets with labels, or two-moons. [default: the study's]")
    @click.option(
        "--images", type=click.IntRange(2), metavar="N", help="Images to train on. [default: few]"
    )
    @count_option("--seeds", default=3, help="Networks for each setting.")
    @words_option("--rates", help="Rates of the states. [default: the study's]")
    @words_option("--optimisers", help="Of adamw and sgd. [default: the study's]")
    @click.option("--full", is_flag=True, help="The grid of the literature: hours to days.")
    @out_option("Folder for the page and the numbers.")
    @data_dir_option
    @json_option
    @quiet_option
    def study(as_json: bool, quiet: bool, rates: tuple[str, ...], **options: Any) -> None:
        import pcgen

        with Story(quiet) as story:
            numbers = [_rate(word) for word in rates]
            result = pcgen.study(name, rates=numbers, on_progress=story, **options)
        if as_json:
            write_json("study", result)
            return
        ends = ("accuracy", "accuracy_low", "accuracy_high", "seeds")
        write_table("study", "table", result["table"], False, ("data", *columns.split(","), *ends))
        click.echo(result["seen"])

    return study


def _rate(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise click.BadParameter(f"{word}: not a number", param_hint="--rates") from None


for _name, (_columns, _summary) in _TRAINING.items():
    command.add_command(_training_study(_name, _columns, _summary))
