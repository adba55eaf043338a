"""`pcgen reconstruct`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import (
    data_dir_option,
    device_option,
    is_first_process,
    json_option,
    jsonl_option,
    limit_option,
    out_option,
    quiet_option,
)
from .output import write_result
from .progress import Story


@click.command("reconstruct")
@click.argument("model")
@click.argument("data")
@out_option("Folder for the picture, the arrays and the rows. [default: a new one]")
@limit_option
@device_option
@data_dir_option
@json_option
@jsonl_option
@quiet_option
def command(
    model: str,
    data: str,
    out: Path | None,
    limit: int | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    as_jsonl: bool,
    quiet: bool,
) -> None:
    """Infer the states of DATA under MODEL and decode them.

    \b
    pcgen reconstruct mnist mnist:test --limit 100 --out pictures
    pcgen reconstruct runs/mnist/model.safetensors photos/ --json

    MODEL is a checkpoint, a run's folder or a shipped model's name. Two errors are shown: of the
    data decoded from the latent (mse), and from the last hidden layer (mse_last_hidden).
    """
    import pcgen
    from pcgen.commands.outputs import default_output

    with Story(quiet or not is_first_process()) as story:
        result = pcgen.reconstruct(
            model,
            data,
            out=out or (None if as_jsonl else default_output("reconstruct")),
            limit=limit,
            device=device,
            data_dir=data_dir,
            on_progress=story,
        )
    if not is_first_process():
        return
    write_result("reconstruct", "Reconstructed", result, story, as_json=as_json, as_jsonl=as_jsonl)
