"""`pcgen recipes`."""

from __future__ import annotations

import click

from .options import json_option
from .output import write_json, write_table
from .train import complete_recipe


@click.command("recipes")
@click.argument("name", required=False, shell_complete=complete_recipe)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the recipes, or show NAME with every default written out."""
    if name is not None:
        _show_one(name, as_json)
        return
    import pcgen

    columns = ("name", "for", "layers", "error")
    rows = pcgen.recipes()
    for row in rows if not as_json else ():
        row["for"] += "" if row["data"] else ", own data"
        mse, accuracy = row["validation_mse"], row["validation_accuracy"]
        row["error"] = mse if accuracy is None else f"{100 * (1 - accuracy):.2g} %"
    write_table("recipes", "recipes", rows, as_json, columns)
    if not as_json:
        click.echo(
            "error: of the shipped model on its validation split, MSE per pixel or per cent.\n"
            "layers: units or maps, the latent first. All of a recipe: pcgen recipes NAME",
            err=True,
        )


def _show_one(name: str, as_json: bool) -> None:
    from pcgen import config, shipped

    recipe = config.from_dict(config.read(shipped.recipe_path(name)), name)
    if as_json:
        write_json("recipes", {"recipe": config.to_dict(recipe)})
    else:
        click.echo(config.to_toml(recipe), nl=False)
