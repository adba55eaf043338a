"""`pcgen bench`: a command for each table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .options import (
    count_option,
    data_dir_option,
    device_option,
    json_option,
    numbers_option,
    out_option,
    quiet_option,
    run_options,
    settings_option,
    together,
    words_option,
)
from .output import write_table
from .progress import Story

_COLUMNS = (
    *("dataset", "method", "metric", "value", "ci_low", "ci_high"),
    *("published", "seconds", "source"),
)
_MEMORY_COLUMNS = (
    *("images", "method", "corrupt", "value", "published", "mse_hidden", "exact", "item"),
    *("unseen", "known", "known_others", "auroc", "steps", "seconds", "training", "bytes", "note"),
)
_OOD_COLUMNS = ("dataset", "method", "metric", "value", "ci_low", "ci_high", "against")
_TABLES_COLUMNS = (
    *("dataset", "method", "metric", "value", "ci_low", "ci_high", "difference"),
    *("standard_error", "seconds", "note"),
)
_SPEED_COLUMNS = (
    *("dataset", "threads", "method", "metric", "value", "ci_low", "ci_high"),
    *("ratio", "processors", "samples", "note"),
)
_CLASSIFICATION_COLUMNS = (
    *("dataset", "method", "value", "ci_low", "ci_high", "published"),
    *("difference", "difference_low", "difference_high", "seconds"),
)
_RECONSTRUCTION_COLUMNS = (
    *_COLUMNS[:6],
    *("difference", "difference_low", "difference_high"),
    *_COLUMNS[6:],
    "note",
)


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


def _data_option(default: str) -> Callable[[Any], Any]:
    help = "Data sets, separated by commas."
    return words_option("--data", help=help, default=default, metavar="D,...")


_seeds_option = count_option(
    "--seeds", default=3, help="Repeat with so many seeds; the intervals are over them."
)
_page_option = out_option("Folder for the page, the charts and the numbers.")
_output_options = together(json_option, quiet_option)


@command.command("reconstruction", short_help="Test errors, with an autoencoder and PCA.")
@_data_option("mnist,fashion-mnist")
@_seeds_option
@_page_option
@run_options
def reconstruction(**options: Any) -> None:
    """Compare test errors with decoders that learn by backprop, PCA and the published ones.

    The differences are to the network's error, paired by seeds.
    """
    import pcgen

    _measure("reconstruction", pcgen.bench_reconstruction, _RECONSTRUCTION_COLUMNS, **options)


@command.command("classification", short_help="Accuracies of classifiers, with backprop.")
@_data_option("mnist,fashion-mnist")
@words_option(
    "--variants",
    help="Of PC-CE, PC-SE, PN, NN, CN, iPC, BP-CE and BP-SE. [default: all]",
    metavar="V,...",
)
@_seeds_option
@count_option("--seed", default=0, least=0, help="The first of these seeds.")
@settings_option("Change a key of the recipes; what makes a variant stays.")
@_page_option
@run_options
def classification(**options: Any) -> None:
    """Compare classifiers by every variant of predictive coding with backprop.

    Data sets are those with a recipe NAME-pc-classifier. All rows train the same network for the
    same epochs. The differences are to backprop with the same label energy, paired by seeds.
    """
    import pcgen

    _measure("classification", pcgen.bench_classification, _CLASSIFICATION_COLUMNS, **options)


@command.command("sampling", short_help="Samples, with a VAE and PPCA.")
@_data_option("iris,mnist")
@click.option(
    "--model",
    metavar="MODEL",
    help="Your own sampler of D, instead of the shipped one; D may be digits or fashion-mnist too.",
)
@words_option(
    "--methods", "parts", help="Parts of the table: samples, chains, likelihood. [default: all]"
)
@count_option("--limit", "samples", default=10_000, least=100, help="Samples of each method.")
@_page_option
@data_dir_option
@_output_options
def sampling(parts: tuple[str, ...], **options: Any) -> None:
    """Compare the shipped samplers with a VAE, PPCA and a network without noise.

    The baselines are trained in the same run.
    """
    import pcgen

    if parts:
        options["parts"] = parts
    _measure("sampling", pcgen.bench_sampling, _COLUMNS, **options)


@command.command("memory", short_help="Recall, with look-ups and principal components.")
@numbers_option("--counts", default="50,100,250", help="Images that a memory stores.")
@numbers_option(
    "--widths", default="512,1024,2048", help="Units of each hidden layer of the memory."
)
@words_option(
    "--corrupt",
    "corruptions",
    default="noise:0.2,mask:bottom,mask:75%,occlude:8",
    help="Damage to the cues, as in pcgen recall --corrupt.",
)
@click.option(
    "--published-steps",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Repeat the published procedure too, with at most N steps of recall.",
)
@click.option(
    "--data", default="tiny-imagenet", show_default=True, metavar="NAME", help="Data set."
)
@click.option(
    "--bytes",
    "share",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Compare memories that keep at most SHARE of the images' 8-bit bytes instead.",
)
@_seeds_option
@out_option("Folder for the page, the curves and the numbers.")
@data_dir_option
@_output_options
def memory(**options: Any) -> None:
    """Restore images from noisy and half-hidden cues.

    The table also has nearest-neighbour look-ups, principal components and the published values.
    It runs on the CPU.
    """
    import pcgen

    _measure("memory", pcgen.bench_memory, _MEMORY_COLUMNS, **options)


@command.command("ood", short_help="Scores of unusual data, with softmax baselines.")
@_data_option("mnist,fashion-mnist")
@words_option("--methods", help="Families of scores. [default: all]")
@count_option("--limit", default=10_000, least=100, help="Use at most N images of each data set.")
@click.option(
    "--left-out/--no-left-out",
    default=True,
    show_default=True,
    help="Also train without one class, and count its images as unusual.",
)
@_seeds_option
@out_option("Folder for the page, the numbers and the scores.")
@run_options
def ood(as_json: bool, **options: Any) -> None:
    """Measure every score of unusual data, with 95 % intervals over images and seeds.

    With --out, a later call continues from the scores kept there. --json prints every metric.
    """
    import pcgen

    shown = None if as_json else _is_headline
    _measure("ood", pcgen.bench_ood, _OOD_COLUMNS, as_json, shown=shown, **options)


@command.command("speed", short_help="Seconds, with other libraries.")
@words_option(
    "--workloads", default="W1,W2,W3,W4", help="Workloads; docs/results/speed.md describes them."
)
@count_option("--samples", default=20, help="Repeat every timing N times.")
@numbers_option(
    "--threads", default="1,2", help="Numbers of threads; each has its part of the table."
)
@click.option(
    "--peers",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="PCGEN_PEERS",
    metavar="DIR",
    help="Folder in which `make peers` was run. [default: the working folder]",
)
@out_option("Folder for the page and the numbers.")
@device_option
@_output_options
def speed(device: str, **options: Any) -> None:
    """Compare times to equilibrium and to a validation error with other libraries.

    Everybody has the best of its settings. Only libraries that `make peers` has built are timed;
    ratios are to the fastest of them. It runs on the CPU unless --device names a GPU.
    """
    import pcgen

    options["device"] = "cpu" if device == "auto" else device
    _measure("speed", pcgen.bench_speed, _SPEED_COLUMNS, **options)


@command.command("self-test", short_help="Self-tests of detectors, and what these find.")
@_data_option("mnist,fashion-mnist,kannada-mnist,usps,digits,cifar10")
@count_option("--limit", default=1000, least=100, help="Known pictures of a detector at most.")
@_page_option
@run_options
def self_test(as_json: bool, **options: Any) -> None:
    """Compare what detectors' self-tests say with what the detectors find.

    Each data set gives two detectors by the recipe pictures-ood, which know half of its classes.
    Unusual are its other classes and the other data sets. The last rows are correlations over all
    detectors. --json prints the values of each detector.
    """
    import pcgen

    shown = None if as_json else _is_of_all
    _measure("self-test", pcgen.bench_self_test, _TABLES_COLUMNS, as_json, shown=shown, **options)


@command.command("tables", short_help="Unusual rows in tables, with plain methods.")
@words_option("--tables", help="Names of tables, or parts of them. [default: all]")
@words_option("--methods", help="Families of methods. [default: all]")
@count_option("--splits", default=3, help="Random divisions into known and new rows.")
@count_option("--limit", default=2000, least=20, help="Rows of each part at most.")
@_page_option
@data_dir_option
@_output_options
def tables(as_json: bool, **options: Any) -> None:
    """Find the unusual rows of ADBench's tables, by detectors fitted to usual rows.

    The last rows are means over the tables, with the difference to pcgen's and its standard error.
    --json prints every metric of every table.
    """
    import pcgen

    shown = None if as_json else _is_mean
    _measure("tables", pcgen.bench_tables, _TABLES_COLUMNS, as_json, shown=shown, **options)


def _measure(
    table: str,
    bench: Callable[..., list[dict[str, Any]]],
    columns: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    shown: Callable[[dict[str, Any]], bool] | None = None,
    **options: Any,
) -> None:
    """Measure a table and print it.

    Args:
        shown: whether a row is printed; all are if not given.

    Raises:
        DivergenceError: a number in it is not finite.
    """
    from pcgen.commands.outputs import require_finite

    with Story(quiet) as story:
        rows = bench(on_progress=story, **options)
    rows = list(filter(shown, rows))
    machine = [f"{row['processor']}, {row['cores']} cores" for row in rows[:1] if "cores" in row]
    write_table("bench", "table", rows, as_json, columns, ", ".join([table, *machine]))
    # After the rows, so that one of them costs no other.
    for row in rows:
        require_finite(f"bench {table}, {row['method']}", row)


def _is_headline(row: dict[str, Any]) -> bool:
    """Return whether a row of the ood table is shown: AUROC, and what is said once a data set."""
    return row["metric"].startswith("auroc") or row["dataset"].endswith(" itself")


def _is_mean(row: dict[str, Any]) -> bool:
    """Return whether a row of the tables' table is shown: AUROC, and the means of all metrics."""
    return row["metric"] == "auroc" or row["dataset"].startswith("mean")


def _is_of_all(row: dict[str, Any]) -> bool:
    """Return whether a row is over all detectors."""
    return bool(row["dataset"].startswith("all"))
