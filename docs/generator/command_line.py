"""Reads the command line of `agent` and `sidecar` into plain records, without running either."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from agent.cli.run import agent
from agent.control_client import commands
from agent.epoch import arguments

_QUICK = {"drain": commands.DRAIN_HELP, "wait": commands.WAIT_HELP}
_SIDECAR = """\
The sidecar takes Envoy's command line and a part of its configuration. It refuses a flag or a field that it does not
support, and names it."""
_NOTE = re.compile(r"\s*\[(env var|default): ([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Option:
    """An option as --help shows it. `usage` has its names and its metavar; `variable` and `default` may be empty."""

    usage: str
    help: str
    default: str = ""
    variable: str = ""
    separator: str = ""
    """What separates several values in the variable; empty for an option that takes one."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `epilog` has its paragraphs below the options; those with several lines are to be kept as they are."""

    name: str
    usage: str
    summary: str
    help: tuple[str, ...]
    options: tuple[Option, ...]
    epilog: tuple[str, ...] = ()


def main_command() -> Command:
    """Return `agent` itself."""
    return _command(agent, "agent")


def sub_commands() -> list[Command]:
    """Return every sub-command by name, the hidden ones included; those of a group follow it."""
    return list(_below(agent, "agent"))


def _below(group: click.Group, prefix: str) -> Iterator[Command]:
    for name, command in sorted(group.commands.items()):
        yield _command(command, f"{prefix} {name}")
        if isinstance(command, click.Group):
            yield from _below(command, f"{prefix} {name}")


def sidecar_command() -> Command:
    """Return `sidecar`, whose command line is Envoy's."""
    flags = [
        Option(name if flag.read is None else f"{name} VALUE", _sentence(flag.about))
        for name, flag in arguments._FLAGS.items()  # noqa: SLF001  # the only list of them
    ]
    answers = [Option(name, _sentence(about)) for name, about in arguments._ANSWERS.items()]  # noqa: SLF001
    return Command(
        name="sidecar",
        usage="sidecar [FLAG VALUE | FLAG=VALUE]...",
        summary="Serve Envoy's configuration with a proxy written in Python.",
        help=_paragraphs(_SIDECAR),
        options=(*flags, *answers),
        epilog=("Exit codes: 0 stopped by a signal, or the answer was printed; 1 any failure.",),
    )


def _command(command: click.Command, name: str) -> Command:
    quick = _QUICK.get(name.removeprefix("agent "))
    if quick is not None:
        return _quick_command(name, quick)
    # With its settings: a command keeps the help option of the first context, also for later calls in this process.
    context = click.Context(command, info_name=name, **command.context_settings)
    return Command(
        name=name,
        usage=" ".join([name, *command.collect_usage_pieces(context)]),
        summary=command.get_short_help_str(200),
        help=_paragraphs(command.help or ""),
        options=tuple(_option(each, context) for each in command.params if isinstance(each, click.Option)),
        epilog=_paragraphs(command.epilog or ""),
    )


def _paragraphs(text: str) -> tuple[str, ...]:
    """Split as click does: a paragraph that begins with a backspace keeps its lines, any other is one line."""
    found = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        kept = block.startswith("\b")
        found.append(_indented(block) if kept else " ".join(block.split()))
    return tuple(each for each in found if each.strip())


def _indented(block: str) -> str:
    """Return a block of lines with the least indentation that marks it as such."""
    return textwrap.indent(textwrap.dedent(block.removeprefix("\b\n")), "  ")


def _option(option: click.Option, context: click.Context) -> Option:
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} is hidden"
    return Option(
        usage=record[0].replace("INTEGER RANGE", "N"),
        help=option.help or "",
        default=_default(option),
        variable=option.envvar if isinstance(option.envvar, str) else "",
        separator=(option.type.envvar_list_splitter or "space") if option.multiple else "",
    )


def _default(option: click.Option) -> str:
    value: Any = option.to_info_dict()["default"]
    if option.is_flag:
        return (option.opts if value else option.secondary_opts)[0] if option.secondary_opts else ""
    return "" if value is None or option.multiple else str(value)


def _quick_command(name: str, text: str) -> Command:
    """Read a help text that is written by hand, since importing click takes longer than the command may."""
    usage, summary, rest = text.split("\n\n", 2)
    return Command(
        name=name,
        usage=usage.removeprefix("Usage: "),
        summary=summary.strip(),
        help=(summary.strip(),),
        options=tuple(_quick_options(rest)),
    )


def _quick_options(text: str) -> Iterator[Option]:
    for line in text.splitlines()[1:]:
        usage, _, about = line.strip().partition("  ")
        if usage != "-h, --help":
            notes = dict(_NOTE.findall(about))
            default, variable = notes.get("default", ""), notes.get("env var", "")
            yield Option(usage, _NOTE.sub("", about).strip(), default, variable)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
