"""`pcgen train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import (
    is_first_process,
    out_option,
    run_options,
    seed_option,
    settings_of,
    settings_option,
)
from .output import write_document, write_table
from .progress import Story


def complete_recipe(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """Return the shipped recipes that begin so, or leave it to the shell's own files."""
    from click.shell_completion import CompletionItem

    from pcgen import shipped

    names = [name for name in shipped.names() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


@click.command("train")
@click.argument("recipe", required=False, shell_complete=complete_recipe)
@out_option("Folder of the run.")
@click.option(
    "--data",
    metavar="DATA",
    help="Data to train on: a data set's name or a path. [default: the recipe's]",
)
@settings_option(
    "Set a key of the recipe, for example inference.steps=40. Values are TOML. Repeatable."
)
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out, with its own recipe, data and seed."
)
@click.option(
    "--check", is_flag=True, help="Train on one batch, show sizes and times, and write nothing."
)
@click.option("--show-settings", is_flag=True, help="Show every setting with its source, and stop.")
@seed_option
@run_options
def command(
    recipe: str | None,
    out: Path | None,
    data: str | None,
    settings: tuple[str, ...],
    resume: bool,
    check: bool,
    show_settings: bool,
    seed: int | None,
    as_json: bool,
    quiet: bool,
    **place: Any,
) -> None:
    """Train a model from RECIPE: a name (pcgen recipes) or a TOML file.

    \b
    pcgen train mnist --out runs/mnist
    pcgen train mnist --out runs/short --set learning.epochs=2 --set data.limit=5000
    pcgen train --resume --out runs/mnist

    A setting comes from the first of these that gives it: a flag, a PCGEN_SET_* variable, the
    recipe, the default.
    """
    if recipe is None and not resume:
        raise click.UsageError("Missing RECIPE. Show them: pcgen recipes")
    if out is None and not (check or show_settings):
        raise click.UsageError("Missing --out, the run's folder.")
    if resume and (check or show_settings):
        raise click.UsageError("--resume goes without --check and --show-settings.")
    seed_is_a_flag = (
        click.get_current_context().get_parameter_source("seed")
        is click.core.ParameterSource.COMMANDLINE
    )
    if show_settings:
        assert recipe is not None
        layers = _layers(settings, data, seed, seed_is_a_flag)
        _show_settings(recipe, *layers, as_json)
        return
    words = [*settings_of(), *settings]
    if resume:
        # A resumed run restates nothing, so the environment must not change it either.
        words, seed = list(settings), seed if seed_is_a_flag else None

    import pcgen

    given = {"data": data, "settings": words, "seed": seed, **place}
    if check:
        assert recipe is not None
        checked = pcgen.check(recipe, on_progress=Story(quiet), **given)
        write_document("train", checked.document(), "Nothing written.", as_json)
        return
    assert out is not None
    with Story(quiet or not is_first_process()) as story:
        result = pcgen.train(recipe, out, resume=resume, on_progress=story, **given)
    if not is_first_process():
        return
    document = result.document()
    credit, samples = (None if as_json else document.pop(key) for key in ("credit", "samples"))
    write_document("train", document, "Trained", as_json)
    for line in credit_lines(credit) if credit else ():
        click.echo(line)
    for line in samples_lines(samples) if samples else ():
        click.echo(line)
    if not as_json:
        Story(quiet).say(f"Look at it: pcgen report {out}")


def credit_lines(credit: dict[str, Any]) -> list[str]:
    """Return sentences that tell how the weights get their gradient, as `pcgen train` prints."""
    lines = []
    if credit["hidden_share"] is not None:
        lines.append(
            f"Hidden layers hold {100 * credit['hidden_share']:.2g} % of the energy. "
            f"The weight gradient of {credit['images']} images has cosine "
            f"{credit['cosine_equilibrium']:.3f} with that of their equilibrium, "
            f"{credit['cosine_backprop']:.3f} with backprop's."
        )
    counts = credit["parameters"]
    start = "the linear start" if counts["start"] else "zero"
    lines.append(
        f"Decoded from the latent: mse {credit['mse']:.4e} from {start}"
        + (f", {credit['mse_from_zero']:.4e} from zero." if counts["start"] else ".")
    )
    names = {
        "weights": "weights and biases",
        "start": "in the linear start",
        "prior": "in the latent's prior",
        "precisions": "precisions",
    }
    parts = [f"{counts[key]:,} {name}" for key, name in names.items() if counts[key]]
    lines.append(f"Learned numbers: {counts['whole']:,} ({', '.join(parts)}).")
    return lines


def samples_lines(samples: dict[str, Any]) -> list[str]:
    """Return sentences that tell how good samples are, as `pcgen train` prints."""
    head = f"Frechet distance to {samples['count']:,} held-out rows, on {samples['features']}"
    return [f"{head} (precision, recall):"] + [
        f"  {row['method']}: {row['frechet']:.4g} ({row['precision']:.2f}, {row['recall']:.2f})"
        for row in samples["methods"]
    ]


def _layers(
    settings: tuple[str, ...], data: str | None, seed: int | None, seed_is_a_flag: bool
) -> tuple[list[str], list[str]]:
    """Return what the environment and what the flags set, as --set words."""
    environment, flags = settings_of(), [*settings]
    if data is not None:
        # Quoted as TOML, or a path such as 2024 would be read as a number.
        flags.append(f"data.source={json.dumps(data)}")
    if seed is not None:
        (flags if seed_is_a_flag else environment).append(f"seed={seed}")
    return environment, flags


def _show_settings(recipe: str, environment: list[str], flags: list[str], as_json: bool) -> None:
    """Print every setting, its value and which of the four layers gave it."""
    from pcgen import config, shipped

    own = config.read(shipped.recipe_path(recipe))
    whole = config.with_settings(own, [*environment, *flags])
    given = {
        "flag": _leaves(config.with_settings({}, flags)),
        "environment": _leaves(config.with_settings({}, environment)),
        "recipe": _leaves(own),
    }
    rows = [
        {
            "setting": key,
            "value": value,
            "from": next((name for name, keys in given.items() if key in keys), "default"),
        }
        for key, value in _leaves(config.to_dict(config.from_dict(whole, recipe))).items()
    ]
    shown = rows if as_json else [{**row, "value": str(row["value"])} for row in rows]
    write_table("train", "settings", shown, as_json)


def _leaves(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
