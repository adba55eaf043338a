"""`pcgen bench`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import data_dir_option, device_option, json_option, out_option, quiet_option
from .output import write_json, write_rows
from .progress import Story

TABLES = ("reconstruction", "sampling", "speed")
PLANNED = ("memory", "ood")
_DATA = {"reconstruction": "mnist,fashion-mnist", "sampling": "iris,mnist"}
SPEED_COLUMNS = (
    "dataset",
    "threads",
    "method",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "ratio",
    "samples",
    "note",
)
COLUMNS = (
    "dataset",
    "method",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "published",
    "seconds",
    "source",
)


def _table(ctx: click.Context, param: click.Parameter, name: str) -> str:
    if name in TABLES:
        return name
    there = f"There is: {', '.join(TABLES)}."
    if name in PLANNED:
        raise click.BadParameter(f"{name} comes later. {there}", ctx, param)
    raise click.BadParameter(f"no table {name!r}. {there}", ctx, param)


@click.command("bench")
@click.argument("table", callback=_table)
@click.option(
    "--data",
    metavar="D,...",
    help="Data sets, separated by commas; of the table's own if not given.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, metavar="N")
@click.option(
    "--workloads",
    default="W1,W2,W3,W4",
    show_default=True,
    metavar="W,...",
    help="Of the speed table, separated by commas.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="Timings a cell of the speed table.",
)
@click.option(
    "--threads",
    default="1,2",
    show_default=True,
    metavar="N,...",
    help="Processors of the speed table, a part for each number.",
)
@click.option(
    "--peers",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="PCGEN_PEERS",
    metavar="DIR",
    help="Where make peers was run; the working folder otherwise.",
)
@out_option("Folder for the speed table's page and numbers.")
@device_option
@data_dir_option
@json_option
@quiet_option
def command(
    table: str,
    data: str | None,
    seeds: int,
    workloads: str,
    samples: int,
    threads: str,
    peers: Path | None,
    out: Path | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Re-measure TABLE (reconstruction, sampling, speed) beside its baselines and published values.

    reconstruction: models are chosen on the validation split; the test set is used once at the end.

    sampling: the shipped samplers beside a VAE, PPCA and a PCN without noise, trained in the run.

    speed: training batches and times to equilibrium beside other libraries, where make peers has
    built them; ratios are to the faster mode of pcx.
    """
    from pcgen import api

    names = _words(data or _DATA.get(table, "mnist"), "--data")
    with Story(quiet) as story:
        if table == "speed":
            rows = api.bench_speed(
                _words(workloads, "--workloads"),
                samples=samples,
                threads=_numbers(threads),
                peers=peers,
                out=out,
                on_progress=story,
            )
        elif table == "sampling":
            from pcgen import generate

            rows = generate.bench_sampling(names, data_dir=data_dir, on_progress=story)
        else:
            rows = api.bench_reconstruction(
                names, seeds=seeds, device=device, data_dir=data_dir, on_progress=story
            )
    if as_json:
        write_json("bench", {"table": rows})
    else:
        write_rows(rows, SPEED_COLUMNS if table == "speed" else COLUMNS, title=table)


def _words(text: str, flag: str) -> tuple[str, ...]:
    """Return the words between commas.

    Raises:
        click.BadParameter: there is none.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise click.BadParameter("nothing named", param_hint=flag)
    return words


def _numbers(text: str) -> tuple[int, ...]:
    words = _words(text, "--threads")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{text}: not numbers above 0", param_hint="--threads")
    return tuple(int(word) for word in words)
