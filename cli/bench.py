"""`pcgen bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import data_dir_option, device_option, json_option, out_option, quiet_option
from .output import write_json, write_rows
from .progress import Story

TABLES = ("reconstruction", "sampling", "memory", "ood", "speed")
# Data sets of a table, where they are not the two of the others.
_DATA = {"sampling": "iris,mnist"}
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
MEMORY_COLUMNS = (
    "images",
    "method",
    "corrupt",
    "value",
    "published",
    "mse_hidden",
    "exact",
    "known",
    "known_others",
    "auroc",
    "steps",
    "seconds",
    "training",
    "bytes",
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
OOD_COLUMNS = ("dataset", "method", "metric", "value", "ci_low", "ci_high", "against")


def _table(ctx: click.Context, param: click.Parameter, name: str) -> str:
    if name in TABLES:
        return name
    raise click.BadParameter(f"no table {name!r}. There is: {', '.join(TABLES)}.", ctx, param)


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
@click.option(
    "--counts",
    default="50,100,250",
    show_default=True,
    metavar="N,...",
    help="Images that a memory stores, a part of the memory table for each number.",
)
@click.option(
    "--widths",
    default="512,1024,2048",
    show_default=True,
    metavar="N,...",
    help="Of the memory's hidden layers.",
)
@click.option(
    "--corrupt",
    default="noise:0.2,mask:bottom,mask:75%,occlude:8",
    show_default=True,
    metavar="HOW,...",
    help="What makes the memory's cues, see pcgen recall.",
)
@click.option(
    "--published-steps",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Train and recall as published as well, with so many recall steps at most.",
)
@click.option(
    "--methods",
    metavar="M,...",
    help="Families of the ood table, or parts of the sampling table (samples, chains, likelihood), "
    "separated by commas; all by default.",
)
@click.option(
    "--limit",
    type=click.IntRange(100),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Images of a set of the ood table at most; samples of each method of the sampling table.",
)
@click.option(
    "--left-out/--no-left-out",
    default=True,
    show_default=True,
    help="Whether the ood table trains again without one class, which is then unusual.",
)
@out_option("Folder for the page and numbers of memory, speed and ood, and for ood's scores.")
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
    counts: str,
    widths: str,
    corrupt: str,
    published_steps: int,
    methods: str | None,
    limit: int,
    left_out: bool,
    out: Path | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Re-measure TABLE (reconstruction, sampling, memory, ood, speed) beside what is published.

    ood: every score of unusual data, with 95 % intervals over images and seeds. With --out, scores
    are kept there and a later call goes on from them. --json has every metric.

    reconstruction: models are chosen on the validation split; the test set is used once at the end.

    sampling: the shipped samplers beside a VAE, PPCA and a PCN without noise, trained in the run;
    choices on the validation split, the test set once.

    memory: Tiny ImageNet's images restored from noisy and half-hidden cues, beside look-ups that
    keep the data, principal components and the published values. On the CPU.

    speed: training batches and times to equilibrium beside other libraries, where make peers has
    built them; ratios are to the faster mode of pcx. On the CPU, unless --device names a GPU.
    """
    from pcgen import api

    names = _words(data or _DATA.get(table, "mnist,fashion-mnist"), "--data")
    with Story(quiet) as story:
        if table == "speed":
            rows = api.bench_speed(
                _words(workloads, "--workloads"),
                samples=samples,
                threads=_numbers(threads, "--threads"),
                device="cpu" if device == "auto" else device,
                peers=peers,
                out=out,
                on_progress=story,
            )
        elif table == "sampling":
            from pcgen import sampling_table

            rows = sampling_table.bench_sampling(
                names,
                samples=limit,
                parts=sampling_table.PARTS if methods is None else _words(methods, "--methods"),
                data_dir=data_dir,
                on_progress=story,
            )
        elif table == "memory":
            from pcgen import memories

            rows = memories.bench_memory(
                _numbers(counts, "--counts"),
                _numbers(widths, "--widths"),
                _words(corrupt, "--corrupt"),
                seeds=seeds,
                published_steps=published_steps,
                out=out,
                data_dir=data_dir,
                on_progress=story,
            )
        elif table == "ood":
            from pcgen import benchmarks

            rows = benchmarks.bench_ood(
                names,
                seeds=seeds,
                methods=None if methods is None else _words(methods, "--methods"),
                limit=limit,
                left_out=left_out,
                out=out,
                device=device,
                data_dir=data_dir,
                on_progress=story,
            )
        else:
            rows = api.bench_reconstruction(
                names, seeds=seeds, device=device, data_dir=data_dir, on_progress=story
            )
    if as_json:
        write_json("bench", {"table": rows})
    elif table == "ood":
        write_rows([row for row in rows if _is_headline(row)], OOD_COLUMNS, title=table)
    else:
        shown = {"speed": SPEED_COLUMNS, "memory": MEMORY_COLUMNS}.get(table, COLUMNS)
        write_rows(rows, shown, title=table)


def _is_headline(row: dict[str, Any]) -> bool:
    """Return whether a row of the ood table is shown: AUROC, and what is said once a data set."""
    return row["metric"].startswith("auroc") or row["dataset"].endswith(" itself")


def _words(text: str, flag: str) -> tuple[str, ...]:
    """Return the words between commas.

    Raises:
        click.BadParameter: there is none.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise click.BadParameter("nothing named", param_hint=flag)
    return words


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    words = _words(text, flag)
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{text}: not numbers above 0", param_hint=flag)
    return tuple(int(word) for word in words)
