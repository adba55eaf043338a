"""`pcgen bench`: a command for each table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .options import data_dir_option, device_option, json_option, out_option, quiet_option
from .output import write_json, write_rows
from .progress import Story

Function = TypeVar("Function", bound=Callable[..., Any])

SPEED_COLUMNS = (
    "dataset",
    "threads",
    "method",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "ratio",
    "processors",
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
RECONSTRUCTION_COLUMNS = (
    *COLUMNS[:6],
    "difference",
    "difference_low",
    "difference_high",
    *COLUMNS[6:],
    "note",
)
OOD_COLUMNS = ("dataset", "method", "metric", "value", "ci_low", "ci_high", "against")


class Tables(click.Group):
    """The group of tables; an unknown name is answered with the known ones."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that makes a table."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such table {args[0]!r}. There is: {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


@click.group("bench", cls=Tables)
def command() -> None:
    """Measure a table again, with its baselines and published values.

    Models are chosen on the validation split; the test set is used once, at the end.
    """


def _data_option(default: str) -> Callable[[Function], Function]:
    return click.option(
        "--data",
        default=default,
        show_default=True,
        metavar="D,...",
        help="Data sets, separated by commas.",
    )


def _numbers_option(flag: str, default: str, help: str) -> Callable[[Function], Function]:
    return click.option(flag, default=default, show_default=True, metavar="N,...", help=help)


def _words_option(flag: str, default: str | None, help: str) -> Callable[[Function], Function]:
    return click.option(
        flag, default=default, show_default=default is not None, metavar="W,...", help=help
    )


seeds_option = click.option(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Repeat with so many seeds; the intervals are over them.",
)


@command.command("reconstruction", short_help="Test errors, with an autoencoder and PCA.")
@_data_option("mnist,fashion-mnist")
@seeds_option
@device_option
@data_dir_option
@json_option
@quiet_option
def reconstruction(
    data: str, seeds: int, device: str, data_dir: Path | None, as_json: bool, quiet: bool
) -> None:
    """Compare test errors with decoders that learn by backprop, PCA and the published ones.

    The differences are to the network's error, paired by seeds.
    """
    import pcgen

    names = _words(data, "--data")
    with Story(quiet) as story:
        rows = pcgen.bench_reconstruction(
            names, seeds=seeds, device=device, data_dir=data_dir, on_progress=story
        )
    _show("reconstruction", rows, RECONSTRUCTION_COLUMNS, as_json)


@command.command("sampling", short_help="Samples, with a VAE and PPCA.")
@_data_option("iris,mnist")
@_words_option("--methods", None, "Parts of the table: samples, chains, likelihood. [default: all]")
@click.option(
    "--limit",
    type=click.IntRange(100),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Samples of each method.",
)
@data_dir_option
@json_option
@quiet_option
def sampling(
    data: str,
    methods: str | None,
    limit: int,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the shipped samplers with a VAE, PPCA and a network without noise.

    The baselines are trained in the same run.
    """
    import pcgen
    from pcgen.commands.bench_sampling import SAMPLING_PARTS

    with Story(quiet) as story:
        rows = pcgen.bench_sampling(
            _words(data, "--data"),
            samples=limit,
            parts=SAMPLING_PARTS if methods is None else _words(methods, "--methods"),
            data_dir=data_dir,
            on_progress=story,
        )
    _show("sampling", rows, COLUMNS, as_json)


@command.command("memory", short_help="Recall, with look-ups and principal components.")
@_numbers_option("--counts", "50,100,250", "Images that a memory stores.")
@_numbers_option("--widths", "512,1024,2048", "Units of each hidden layer of the memory.")
@_words_option(
    "--corrupt",
    "noise:0.2,mask:bottom,mask:75%,occlude:8",
    "Damage to the cues, as in pcgen recall --corrupt.",
)
@click.option(
    "--published-steps",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Repeat the published procedure too, with at most N steps of recall.",
)
@seeds_option
@out_option("Folder for the page, the curves and the numbers.")
@data_dir_option
@json_option
@quiet_option
def memory(
    counts: str,
    widths: str,
    corrupt: str,
    published_steps: int,
    seeds: int,
    out: Path | None,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Restore Tiny ImageNet's images from noisy and half-hidden cues.

    The table also has nearest-neighbour look-ups, principal components and the published values.
    It runs on the CPU.
    """
    import pcgen

    with Story(quiet) as story:
        rows = pcgen.bench_memory(
            _numbers(counts, "--counts"),
            _numbers(widths, "--widths"),
            _words(corrupt, "--corrupt"),
            seeds=seeds,
            published_steps=published_steps,
            out=out,
            data_dir=data_dir,
            on_progress=story,
        )
    _show("memory", rows, MEMORY_COLUMNS, as_json)


@command.command("ood", short_help="Scores of unusual data, with softmax baselines.")
@_data_option("mnist,fashion-mnist")
@_words_option("--methods", None, "Families of scores. [default: all]")
@click.option(
    "--limit",
    type=click.IntRange(100),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Use at most N images of each data set.",
)
@click.option(
    "--left-out/--no-left-out",
    default=True,
    show_default=True,
    help="Also train without one class, and count its images as unusual.",
)
@seeds_option
@out_option("Folder for the page, the numbers and the scores.")
@device_option
@data_dir_option
@json_option
@quiet_option
def ood(
    data: str,
    methods: str | None,
    limit: int,
    left_out: bool,
    seeds: int,
    out: Path | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure every score of unusual data, with 95 % intervals over images and seeds.

    With --out, a later call continues from the scores kept there. --json prints every metric.
    """
    import pcgen

    with Story(quiet) as story:
        rows = pcgen.bench_ood(
            _words(data, "--data"),
            seeds=seeds,
            methods=None if methods is None else _words(methods, "--methods"),
            limit=limit,
            left_out=left_out,
            out=out,
            device=device,
            data_dir=data_dir,
            on_progress=story,
        )
    _show("ood", rows if as_json else [r for r in rows if _is_headline(r)], OOD_COLUMNS, as_json)


@command.command("speed", short_help="Seconds, with other libraries.")
@_words_option("--workloads", "W1,W2,W3,W4", "Workloads; docs/results/speed.md describes them.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="Repeat every timing N times.",
)
@_numbers_option("--threads", "1,2", "Numbers of threads; each has its part of the table.")
@click.option(
    "--peers",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="PCGEN_PEERS",
    metavar="DIR",
    help="Folder in which `make peers` was run. [default: the working folder]",
)
@out_option("Folder for the page and the numbers.")
@device_option
@json_option
@quiet_option
def speed(
    workloads: str,
    samples: int,
    threads: str,
    peers: Path | None,
    out: Path | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare times to equilibrium and to a validation error with other libraries.

    Everybody has the best of its settings. Only libraries that `make peers` has built are timed;
    ratios are to the fastest of them. It runs on the CPU unless --device names a GPU.
    """
    import pcgen

    with Story(quiet) as story:
        rows = pcgen.bench_speed(
            _words(workloads, "--workloads"),
            samples=samples,
            threads=_numbers(threads, "--threads"),
            device="cpu" if device == "auto" else device,
            peers=peers,
            out=out,
            on_progress=story,
        )
    machine = "".join(f", {row['processor']}, {row['cores']} cores" for row in rows[:1])
    _show(f"speed{machine}", rows, SPEED_COLUMNS, as_json)


def _show(table: str, rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Print a table.

    Raises:
        DivergenceError: a number in it is not finite.
    """
    from pcgen.commands.outputs import require_finite

    if as_json:
        write_json("bench", {"table": rows})
    else:
        write_rows(rows, columns, title=table)
    # After the rows, so that one of them costs no other.
    for row in rows:
        require_finite(f"bench {table}, {row['method']}", row)


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
