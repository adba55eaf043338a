"""The `pcgen` command: a group that imports a command's module only when that command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from .failures import exit_code_of, printed_warnings, was_json_asked_for
from .options import is_first_process

# Name: module of this package (its `command` is the click command), and what `pcgen --help` says.
COMMANDS = {
    "demo": "Train, reconstruct and score on embedded data, and write a page.",
    "train": "Train a model from a recipe.",
    "reconstruct": "Infer the states of data and decode them.",
    "recall": "Restore memorised images from damaged cues.",
    "memorise": "Store more images in a memory, without training it again.",
    "forget": "Remove images from a memory.",
    "sample": "Draw new data from a model.",
    "ood-calibrate": "Make a detector: a model with the scores of known data.",
    "ood-score": "Score how unusual new data are; false alarms are limited.",
    "classify": "Label data with a classifier.",
    "bench": "Measure a table again, with its baselines.",
    "study": "Measure how inference and training behave.",
    "report": "Write an HTML page of a run, a detector or scores.",
    "info": "Show what a checkpoint holds.",
    "datasets": "List the data sets and where they are.",
    "recipes": "List the recipes, or show one in full.",
    "doctor": "Show versions, devices and what is missing.",
    "completion": "Print the completion script of a shell.",
}

# Where a launcher such as torchrun has started several processes, these share the work. Every other
# command is the first process's alone: the others would only repeat it, and write the same files.
SHARED = ("train", "reconstruct", "ood-score")

EPILOG = """\b
Environment (below a flag, above a recipe):
  PCGEN_DATA           folder of data sets, looked up after --data-dir
  PCGEN_DEVICE         as --device
  PCGEN_SEED           as --seed
  PCGEN_PRODUCTS       matrix products on a CPU: torch, onednn, or auto (the faster one here)
  PCGEN_SET_TABLE__KEY a setting, as PCGEN_SET_INFERENCE__STEPS=40
  NO_COLOR             no colours

\b
Exit codes: 0 done, 1 could not, 2 usage or recipe, 3 flagged (--fail-on-ood), 4 too many flagged
(--fail-above), 130 interrupted.
Start with: pcgen demo
"""


class LazyGroup(click.Group):
    """A group whose commands are named here and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order a new user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, importing it."""
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        command = import_module(f".{module}", __package__).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; a mistyped one gets the nearest known."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}.{_did_you_mean(name)}")
        if name in COMMANDS and name not in SHARED and not is_first_process():
            ctx.exit()
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line and exit as CLI.md says: no traceback for a user's mistake."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        quiet = not is_first_process() or not {"-q", "--quiet"}.isdisjoint(arguments)
        try:
            with printed_warnings(quiet=quiet):
                result = super().main(arguments, prog_name or "pcgen", **extra)
            sys.stdout.flush()
        except Exception as error:  # click raises Exit and Abort as exceptions too
            sys.exit(exit_code_of(error, as_json=was_json_asked_for(arguments)))
        sys.exit(result if isinstance(result, int) else 0)


def _did_you_mean(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from pcgen import __version__

        click.echo(f"pcgen {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Predictive coding networks that generate.

    The result goes to standard output (--json: one document). Progress and notes go to standard
    error (-q: none).
    """


def main() -> None:
    """Run the command line."""
    cli.main()
