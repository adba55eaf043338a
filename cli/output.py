"""The result on standard output: a rich table, or JSON in full precision."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .failures import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pcgen.commands.outputs import RowsResult

    from .progress import Story

SCHEMA = 1
# Where standard output is no terminal: wide enough that no path is cut.
_WIDTH_OF_A_PIPE = 200
# Keys of a document that are told on standard error.
_SAID = ("notes", "warnings")
# Keys of a document that people read last.
_SETTINGS = ("model", "seed", "device", "inference", "preprocessing")
# What the last word of a key means, where its name does not say it.
_MEANINGS = {
    "metrics.epoch": "whose weights are kept",
    "metrics.count": "held-out images",
    "metrics.steps": "of inference, the mean",
    "mse": "mean squared error per pixel, decoded from the latent",
    "mse_last_hidden": "per pixel, decoded from the last hidden layer",
    "mse_hidden": "per pixel that was hidden",
    "exact": "share of images restored to an MSE below 0.001",
    "energy": "nats per image",
    "converged": "share of images that met the tolerance",
    "images_per_second": "of training and validation",
    "accuracy": "share of images with the right label",
    "alarm_rate.value": "share of inputs that are flagged",
    "rhat": "1 if the chains agree; above 1.05 they have not mixed",
    "ess": "independent samples that the chains are worth",
    "acceptance": "share of accepted steps",
}
# A column of names up to this long keeps each on one line.
_SHORT = 30


def envelope(command: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a result, with the keys that every document has."""
    from pcgen import __version__

    always = {"pcgen": __version__, "schema": SCHEMA, "command": command}
    where = dict.fromkeys(("model", "seed", "device", "inference"))
    return {**always, **where, **document, **always}


def write_json(command: str, document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(_plain(envelope(command, document)), indent=2, allow_nan=False))


def write_document(command: str, document: Mapping[str, Any], title: str, as_json: bool) -> None:
    """Print a document as JSON, or as pairs for people."""
    if as_json:
        write_json(command, document)
    else:
        settings = {key: document[key] for key in _SETTINGS if key in document}
        results = {key: value for key, value in document.items() if key not in settings}
        write_pairs(results | settings, title)


def write_table(
    command: str,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    columns: Sequence[str] = (),
    title: str = "",
) -> None:
    """Print rows as JSON, under a key of its document, or as a table for people."""
    if as_json:
        write_json(command, {key: rows})
    else:
        write_rows(rows, columns, title)


def write_json_lines(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON line for each row."""
    for row in rows:
        click.echo(json.dumps(_plain(row), allow_nan=False))


def write_result(
    command: str, title: str, result: RowsResult, story: Story, *, as_json: bool, as_jsonl: bool
) -> None:
    """Print a result in the form asked for; say how many inputs could not be read."""
    document = result.document()
    if as_jsonl:
        write_json_lines(result.rows())
    else:
        write_document(command, document, title, as_json)
    if document["unreadable"]:
        story.say(f"Could not be read: {document['unreadable']}. Which: add --jsonl")


def write_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), title: str = ""
) -> None:
    """Print a table of rows; without `columns`, all of the first row's."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pcgen.pages.page import is_figure

    names = list(columns or (rows[0] if rows else ()))
    table = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for name in names:
        numbers = any(is_figure(row.get(name)) for row in rows)
        table.add_column(
            name.replace("_", " "),
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=name == names[0] and all(len(shown(r.get(name))) <= _SHORT for r in rows),
        )
    for row in rows:
        table.add_row(*(Text(shown(row.get(name))) for name in names))
    _print(table)


def write_pairs(pairs: Mapping[str, Any], title: str = "") -> None:
    """Print a name, a value and its meaning a line; a table's keys stand behind its name.

    Notes and warnings are left out, because they are on standard error.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(pairs):
        meaning = _MEANINGS.get(name) or _MEANINGS.get(name.rpartition(".")[2], "")
        told = Text("  " + meaning if meaning else "", style="dim")
        table.add_row(Text(name), Text(shown(value)).append_text(told))
    if title:
        _print(Text(title, style="bold"))
    _print(table)


def shown(value: Any) -> str:
    """Return a value as a table shows it: numbers as on the pages, a layer's map as 32x8x8."""
    from pcgen.pages import page

    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(
            "x".join(map(str, item)) if isinstance(item, list | tuple) else shown(item)
            for item in value
        )
    return printable(page.shown(value))


def _print(renderable: RenderableType) -> None:
    """Print without the blanks that rich pads lines with."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE, highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _flat(pairs: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in pairs.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif prefix + name not in _SAID and value is not None and value != "" and value != []:
            flat.append((prefix + name, value))
    return flat


def _plain(value: Any) -> Any:
    """Return the value as JSON can hold it: paths as text, what is no number as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
