"""Write `cli.md` and `recipe.md` from the command line's own options and the recipe's own types.

    python docs/reference/generate.py

A test compares the files with what this script would write, and fails where a command, an option or
a recipe key has no sentence.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from pcgen import config
from pcgen.cli.main import COMMANDS, cli

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/reference/generate.py. Edit the code, then run it again. -->\n\n"


def cli_page() -> str:
    """Return the page of all commands and their options."""
    parts = [
        "# Commands\n\n"
        + NOTE
        + "Every command is also a function of the same name: `pcgen train` is "
        "`pcgen.train`. `pcgen COMMAND --help` prints the same text.\n"
    ]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        parts.append(_command(f"pcgen {name}", command))
    return "\n".join(parts)


def recipe_page() -> str:
    """Return the page of all recipe keys."""
    intro = (
        "A recipe is a TOML file. Every key can be set from the command line, as "
        "`--set learning.epochs=5`, and has the default given here.\n"
    )
    parts = ["# The recipe\n\n" + NOTE + intro]
    parts += [_table(title, kind) for title, kind in _tables(config.Recipe, "")]
    return "\n".join(parts)


def _command(title: str, command: click.Command) -> str:
    context = click.Context(command, info_name=title)
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    text = f"## {title}\n\n{_prose(command.help or '')}\n\n    {usage}\n"
    rows = [_option(option) for option in command.params if isinstance(option, click.Option)]
    if rows:
        text += "\n| option | meaning | default |\n| --- | --- | --- |\n" + "".join(rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            text += "\n" + _command(f"{title} {name}", inner).replace("## ", "### ", 1)
    return text


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    kind = "" if option.is_flag else f" `{option.make_metavar(click.Context(cli))}`"
    if not option.help:
        raise ValueError(f"{option.opts[0]} has no sentence")
    meaning, _, stated = _cell(option.help).partition(" [default: ")
    default = stated.removesuffix("]")
    if not default and option.show_default:
        default = f"`{option.default}`"
    if option.envvar:
        default += f" or `{option.envvar}`" if default else f"`{option.envvar}`"
    return f"| {names}{kind} | {meaning} | {default} |\n"


def _prose(text: str) -> str:
    """Return the help text, with its examples as code blocks."""
    blocks = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b"):
            block = "\n".join(f"    {line.strip()}" for line in block.splitlines()[1:])
        blocks.append(block)
    return "\n\n".join(blocks)


def _tables(kind: type[config.Table], prefix: str) -> list[tuple[str, type[config.Table]]]:
    """Return the tables of the recipe with their titles, those within tables after them."""
    tables = [(prefix or "The recipe itself", kind)]
    for field in msgspec.structs.fields(kind):
        inner = config._table_in(field.type)
        if inner is not None:
            tables += _tables(inner, f"{prefix}.{field.name}".lstrip("."))
    return tables


def _table(title: str, kind: type[config.Table]) -> str:
    sentences = _sentences(kind)
    heading = f"## `[{title}]`" if "." in title or title.islower() else f"## {title}"
    text = f"{heading}\n\n{inspect.getdoc(kind)}\n\n| key | values | default | meaning |\n"
    text += "| --- | --- | --- | --- |\n"
    for field in msgspec.structs.fields(kind):
        if config._table_in(field.type) is not None:
            continue
        if not sentences.get(field.name):
            raise ValueError(f"{kind.__name__}.{field.name} has no sentence")
        values = _cell(_type(field.type))
        text += (
            f"| `{field.name}` | {values} | {_default(field)} | {_cell(sentences[field.name])} |\n"
        )
    return text


def _sentences(kind: type) -> dict[str, str]:
    """Return the text that stands under each field of a class, by the field's name."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found


def _type(kind: Any) -> str:
    """Return a field's type in words: the numbers, words or lists that it takes."""
    for meta in getattr(kind, "__metadata__", ()):
        if meta.extra is not None:
            names = ", ".join(f"`{name}`" for name in meta.extra["names"].built_in)
            return f"{names}, or a name that you register"
    schema = msgspec.json.schema(kind)
    return _words(schema)


def _words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        kinds = [_words(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_words(schema.get('items') or schema['prefixItems'][0])}"
    word = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true, false",
    }
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    bound = (
        f" from {least:g}"
        if least is not None
        else f" above {above:g}"
        if above is not None
        else ""
    )
    below = schema.get("exclusiveMaximum")
    return word.get(kind, kind) + bound + (f", below {below:g}" if below is not None else "")


def _default(field: Any) -> str:
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    return (
        ""
        if value is None or value is msgspec.NODEFAULT
        else f"`{msgspec.json.encode(value).decode()}`"
    )


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


PAGES = {"cli.md": cli_page, "recipe.md": recipe_page}


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
