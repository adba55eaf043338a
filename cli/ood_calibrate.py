"""`pcgen ood-calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import run_options, words_option
from .output import write_json, write_pairs, write_rows
from .progress import Story

# The default of ood-score.
_FPR = 0.05


@click.command("ood-calibrate")
@click.argument("model")
@click.argument("data")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="DETECTOR",
    help="File of the detector.",
)
@click.option(
    "--classifier",
    metavar="MODEL",
    help="A trained classifier; its scores (msp, odin, ...) are stored too.",
)
@words_option(
    "--score",
    "scores",
    metavar="NAME,...",
    help="Your own scores (pcgen.register_score), stored too.",
)
@run_options
def command(out: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Make a detector: MODEL with its scores of known DATA.

    \b
    pcgen ood-calibrate runs/mnist mnist --out mnist.safetensors
    pcgen ood-score mnist.safetensors photos/ --out scores.csv

    DATA is the data that MODEL was trained on, of which the rows set aside are used
    (data.calibration, else the validation rows). Or it is other data of the same kind that MODEL
    has not seen. Rows that chose the epoch shape the combined score, else half of the others do. A
    false-alarm rate of 5 % needs 59 further rows, one of 1 % 299.
    """
    import pcgen

    with Story(quiet) as story:
        result = pcgen.ood_calibrate(out=out, on_progress=story, **options)
    document = result.document()
    if as_json:
        write_json("ood-calibrate", document)
    else:
        test, needed = document.pop("self_test"), document.pop("needed")
        write_pairs(document, "Calibrated")
        write_rows(needed, title=f"Rows needed to calibrate (there are {result.calibrating:,})")
        title = f"Self-test: copies found at a false-alarm rate of {100 * test['fpr']:g} %"
        write_rows(test["changes"], title=title)
        for warning in document["warnings"]:
            story.say(f"Note: {warning}")
        least = document["least_fpr"]["pac"]
        rate = "" if least <= _FPR else f" --fpr {least:g}"
        story.say(f"Use it: pcgen ood-score {out} INPUT... --out scores.csv{rate}")
