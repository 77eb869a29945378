"""`agent completion`: print a script for shell completion."""

import click

_EPILOG = """\
Examples:

\b
  source <(agent completion bash)                      for this shell; in ~/.bashrc for all
  source <(agent completion zsh)                       the same in ~/.zshrc
  agent completion fish > ~/.config/fish/completions/agent.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Print the script that completes `agent` in a shell."""
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three of them"
    # Call ShellComplete.source: a subclass would start the shell first, to ask for its version.
    click.echo(ShellComplete.source(kind(ctx.find_root().command, {}, "agent", "_AGENT_COMPLETE")))
