"""``kvctl completion``: what a shell needs to complete this command's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .showing import write_line


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print SHELL's completion.

    \b
    bash:  eval "$(kvctl completion bash)"    in ~/.bashrc
    zsh:   eval "$(kvctl completion zsh)"     in ~/.zshrc
    fish:  kvctl completion fish > ~/.config/fish/completions/kvctl.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    write_line(found(ctx.find_root().command, {}, "kvctl", "_KVCTL_COMPLETE").source())
