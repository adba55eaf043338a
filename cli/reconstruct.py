"""`pcgen reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import is_first_process, limit_option, out_option, rows_options, settings_option
from .output import write_result
from .progress import Story


@click.command("reconstruct")
@click.argument("model")
@click.argument("data")
@out_option("Folder for the picture, the arrays and the rows. [default: a new one]")
@settings_option("Set a key of the model's recipe, as inference.test_steps=300. Repeatable.")
@limit_option
@rows_options
def command(out: Path | None, as_json: bool, as_jsonl: bool, quiet: bool, **options: Any) -> None:
    """Infer the states of DATA under MODEL and decode them.

    \b
    pcgen reconstruct mnist mnist:test --limit 100 --out pictures
    pcgen reconstruct runs/mnist/model.safetensors photos/ --json

    MODEL is a checkpoint, a run's folder or a shipped model's name. Two errors are shown: of the
    data decoded from the latent (mse), and from the last hidden layer (mse_last_hidden).
    """
    import pcgen
    from pcgen.commands.outputs import default_output

    out = out or (None if as_jsonl else default_output("reconstruct"))
    with Story(quiet or not is_first_process()) as story:
        result = pcgen.reconstruct(out=out, on_progress=story, **options)
    if is_first_process():
        write_result(
            "reconstruct", "Reconstructed", result, story, as_json=as_json, as_jsonl=as_jsonl
        )
