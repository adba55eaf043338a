"""`pcgen completion`."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that completes pcgen's words in SHELL.

    \b
    bash:  pcgen completion bash > ~/.local/share/bash-completion/completions/pcgen
    zsh:   pcgen completion zsh > "${fpath[1]}/_pcgen"
    fish:  pcgen completion fish > ~/.config/fish/completions/pcgen.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "pcgen", "_PCGEN_COMPLETE")
    # `source()` would run the shell to ask its version, which need not be on this machine.
    click.echo(script.source_template % script.source_vars())
