"""How a command ends that could not do what was asked: a line, a hint, an exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from pcgen.errors import PcgenError, PcgenWarning, is_out_of_memory

from .options import is_first_process

INTERRUPTED = 130


def was_json_asked_for(arguments: Sequence[str]) -> bool:
    """Return whether errors are to be JSON. Asked of the raw words: parsing may be what failed."""
    words = list(arguments)
    words = words[: words.index("--")] if "--" in words else words
    return "--json" in words or "--jsonl" in words


def exit_code_of(error: Exception, *, as_json: bool) -> int:
    """Say on standard error what went wrong, and return the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        if is_first_process():
            _say("interrupted", *_of_interrupt(error), as_json=as_json)
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        # The reader of our output has gone; Python would complain once more as it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, PcgenError):
        if not error.quiet and (error.quiet is not None or is_first_process()):
            _say(error.kind, error.message, error.hint, as_json=as_json)
        return error.exit_code
    if isinstance(error, click.ClickException) and not is_first_process():
        return error.exit_code
    if isinstance(error, click.UsageError) and not as_json:
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx:
            hint = f"{error.ctx.command_path} --help"
        _say("usage", error.format_message(), hint, as_json=as_json)
        return error.exit_code
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _say("system", where + (error.strerror or str(error)), "", as_json=as_json)
        return 1
    if is_out_of_memory(error):
        hint = "Make it smaller: --set learning.batch_size=..., --set model.layers=[...]"
        _say("memory", "not enough memory", hint, as_json=as_json)
        return 1
    _confess(error, as_json=as_json)
    return 1


@contextmanager
def printed_warnings(*, quiet: bool) -> Iterator[None]:
    """Print pcgen's own warnings as lines on standard error within a block, or ignore them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "default", PcgenWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, PcgenWarning):
                click.echo(click.style("Note: ", fg="yellow") + printable(str(message)), err=True)
            else:
                usual(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def printable(text: str) -> str:
    """Return the text with control characters written out: a file's name stays on its line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def _of_interrupt(error: click.Abort) -> tuple[str, str]:
    """Return what an interrupted command says it left, and how to go on."""
    said = error.__cause__.args if error.__cause__ else ()
    return said if len(said) == 2 else ("Interrupted.", "")


def _say(kind: str, message: str, hint: str, *, as_json: bool) -> None:
    if as_json:
        document = {"error": {"kind": kind, "message": message, "hint": hint}}
        click.echo(json.dumps(document), err=True)
        return
    colour = False if os.environ.get("NO_COLOR") else None
    start = "" if kind == "interrupted" else click.style("Error: ", fg="red")
    click.echo(start + printable(message), err=True, color=colour)
    if hint:
        click.echo(printable(hint), err=True)


def _confess(error: Exception, *, as_json: bool) -> None:
    """Show the traceback of our own mistake, and say that it is ours."""
    import platform
    import traceback

    from pcgen import __version__

    lines = "".join(traceback.format_exception(error))
    message = f"{type(error).__name__}: {error}"
    note = (
        f"This is a bug in pcgen {__version__} (Python {platform.python_version()}), not your "
        "mistake. Please report it with the lines above and the command."
    )
    if as_json:
        bug = {"kind": "bug", "message": message, "hint": note, "traceback": lines}
        click.echo(json.dumps({"error": bug}), err=True)
        return
    click.echo(lines, err=True, nl=False)
    click.echo(note, err=True)
