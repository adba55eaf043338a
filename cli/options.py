"""Options that several commands share, and settings from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

PREFIX = "PCGEN_SET_"
ROWS = (
    "File for the rows: .csv, .jsonl or .npz. In .csv, text that a spreadsheet would take for a"
    " formula has an apostrophe before it."
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document."
)
jsonl_option = click.option(
    "--jsonl", "as_jsonl", is_flag=True, help="Print a line of JSON for each input."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print no progress and no notes.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    envvar="PCGEN_DEVICE",
    show_envvar=True,
    metavar="NAME",
    help="Device: auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    envvar="PCGEN_SEED",
    show_envvar=True,
    metavar="N",
    help="Seed of all random numbers. [default: the recipe's or the model's]",
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of data sets, searched before PCGEN_DATA and the cache.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use the first N inputs only."
)


def together(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return several options as one decorator; the help lists them in this order."""
    return lambda function: reduce(lambda inner, option: option(inner), options[::-1], function)


run_options = together(device_option, data_dir_option, json_option, quiet_option)
rows_options = together(device_option, data_dir_option, json_option, jsonl_option, quiet_option)


def out_option(help: str, default: str | None = None) -> Callable[[Function], Function]:
    """Return the --out option of a command."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=default,
        show_default=default is not None,
        metavar="PATH",
        help=help,
    )


def settings_option(help: str) -> Callable[[Function], Function]:
    """Return the --set option of a command."""
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=help)


def count_option(
    *names: str, help: str, default: int, least: int = 1
) -> Callable[[Function], Function]:
    """Return an option that is a number of things, at least so many."""
    kind = click.IntRange(least)
    return click.option(
        *names, type=kind, default=default, show_default=True, metavar="N", help=help
    )


def words_option(
    *names: str, help: str, default: str | None = None, metavar: str = "W,..."
) -> Callable[[Function], Function]:
    """Return an option that is a tuple of words, written with commas between them."""
    shown = default is not None
    return click.option(
        *names, callback=_words, default=default, show_default=shown, metavar=metavar, help=help
    )


def numbers_option(*names: str, help: str, default: str) -> Callable[[Function], Function]:
    """Return an option that is a tuple of numbers above 0, written with commas between them."""
    return click.option(
        *names, callback=_numbers, default=default, show_default=True, metavar="N,...", help=help
    )


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the words of an option, each once; none where it is not given."""
    words = tuple(dict.fromkeys(filter(None, map(str.strip, (value or "").split(",")))))
    if value is not None and not words:
        raise click.BadParameter("nothing named", ctx, param)
    return words


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    words = _words(ctx, param, value)
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value}: not numbers above 0", ctx, param)
    return tuple(map(int, words))


def settings_of(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the settings that PCGEN_SET_* variables give, as --set words, in the order of names.

    PCGEN_SET_LEARNING__BATCH_SIZE=100 is learning.batch_size=100.
    """
    return [
        f"{name.removeprefix(PREFIX).lower().replace('__', '.')}={value}"
        for name, value in sorted(environment.items())
        if name.startswith(PREFIX)
    ]


def is_first_process() -> bool:
    """Return whether this process speaks: it is alone, or the launcher's first."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"
