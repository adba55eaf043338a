"""`pcgen ood-score`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import ROWS, is_first_process, rows_options, words_option
from .output import write_json, write_json_lines, write_pairs, write_rows
from .progress import Story

if TYPE_CHECKING:
    from pcgen.commands.ood_score import OodScoreResult

FLAGGED, MANY_FLAGGED = 3, 4
# Rows of a table for people; the rest is in the file.
_SHOWN = 10
_COLUMNS = ("id", "score", "p_value", "is_ood", "q_value_bh", "surprised_layer", "heatmap")


def _share(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise click.BadParameter(f"{value:g} is not between 0 and 1", ctx, param)
    return value


def _format(ctx: click.Context, param: click.Parameter, out: Path | None) -> Path | None:
    if out is not None and out.suffix.lower() not in (".csv", ".jsonl", ".npz"):
        raise click.BadParameter(f"{out} must end in .csv, .jsonl or .npz", ctx, param)
    return out


@click.command("ood-score")
@click.argument("detector")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_format,
    metavar="FILE",
    help=f"{ROWS} FILE.meta.json is written beside it. [default: a new scores.csv]",
)
@words_option(
    "--score",
    "scores",
    metavar="NAME,...",
    help="Scores to write; the first decides. [default: all, pc-fisher first; for a table, "
    "table-energy]",
)
@click.option(
    "--fpr",
    type=float,
    callback=_share,
    default=0.05,
    show_default=True,
    help="False-alarm rate: the share of known inputs that may be flagged.",
)
@click.option(
    "--guarantee",
    type=click.Choice(["pac", "marginal"]),
    default="pac",
    show_default=True,
    help="pac: the rate holds for this detector with 95 % confidence; marginal: on average.",
)
@click.option(
    "--fdr",
    type=float,
    callback=_share,
    metavar="Q",
    help="Flag by q-value instead: at most the share Q of the flagged inputs is known.",
)
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for a picture of each input that shows where it is unusual.",
)
@click.option(
    "--resize",
    is_flag=True,
    help="Bring inputs of other sizes to the model's, outside the guarantee.",
)
@click.option("--resume", is_flag=True, help="Continue the same command after an interruption.")
@click.option("--fail-on-ood", is_flag=True, help="Exit with code 3 if an input is flagged.")
@click.option(
    "--fail-above",
    type=float,
    callback=_share,
    metavar="SHARE",
    help="Exit with code 4 if more than this share of the inputs that can be read is flagged.",
)
@rows_options
def command(
    out: Path | None,
    resume: bool,
    fail_on_ood: bool,
    fail_above: float | None,
    as_json: bool,
    as_jsonl: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Score how unusual each INPUT is: p-value, verdict, and the layer that is surprised most.

    \b
    pcgen ood-score mnist-ood photos/ scan.png --out scores.csv
    find . -name '*.png' | pcgen ood-score mnist-ood - --out scores.jsonl --heatmaps maps

    DETECTOR is a file from pcgen ood-calibrate, a folder that holds one, or the name of a shipped
    detector: mnist-ood or digits-ood. INPUT is any data that pcgen reads. An input that cannot be
    read becomes a row with a status. In every score, higher is more unusual.
    """
    if resume and out is None:
        raise click.UsageError("--resume needs --out, the file of the interrupted command.")
    import pcgen
    from pcgen.commands.outputs import default_output

    out = out or (None if as_jsonl else default_output("ood-score"))
    with Story(quiet or not is_first_process()) as story:
        result = pcgen.ood_score(
            out=out, resume=resume, argv=sys.argv, on_progress=story, **options
        )
    document = result.document()
    if is_first_process():
        _show(result, document, as_json, as_jsonl)
        for warning in document["warnings"]:
            story.say(f"Note: {warning}")
    if fail_above is not None and document["alarm_rate"]["value"] > fail_above:
        return MANY_FLAGGED
    return FLAGGED if fail_on_ood and document["flagged"] else 0


def _show(result: OodScoreResult, document: dict[str, Any], as_json: bool, as_jsonl: bool) -> None:
    if as_jsonl:
        write_json_lines(result.rows())
        return
    if as_json:
        write_json("ood-score", document)
        return
    from pcgen.ood.rows import most_unusual

    rows = most_unusual(result.rows(), _SHOWN)
    columns = [name for name in _COLUMNS if any(row.get(name) is not None for row in rows)]
    write_rows(rows, columns, title="Most unusual")
    hidden = ("device", "seed", "inference", "most_unusual")
    write_pairs({key: value for key, value in document.items() if key not in hidden}, "Scored")
