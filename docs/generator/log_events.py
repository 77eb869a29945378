"""Collects the events that the agent can log, from the calls in its source."""

import ast
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core.effects import LogTopic
from agent.supervisor import executor
from docs.generator.literal_text import HOLE, Function, Module, UnresolvedError, call_name, value_of, words

_OTHER_PROGRAMS = ("cli", "demo", "epoch", "sidecar", "stats")  # packages with output of their own
_COMMAND_LINE = ("cli/start.py",)  # but for the module that runs the agent
_CALLS = {"log_event": (0, 1, 2), "once": (2, 0, 1)}
"""The functions that log, with the positions of the level, the event's name and its text."""
_LOGS = re.compile(rf"\b({'|'.join(_CALLS)}|LogMessage)\(")

_WRITTEN_IN: dict[str, tuple[str, str, int | None]] = {
    "agent.gone": ("core/reconciler.py", "Finish", 1),
    "agent.state": ("supervisor/summary.py", "_describe", None),
    "agent.not_surviving": ("host/parent_death_filter.py", "MachineError", 0),
    "certificate.caution": ("certificates/groups.py", "FileWarning", 3),
    "certificate.refused": ("certificates/findings.py", "message", None),
    "certificate.stray": ("certificates/discovery.py", "FileWarning", 3),
    "control.asked": ("status/control.py", "_note", 0),
    "environment.ignored": ("cli/environment.py", "_unknown", None),
    "epoch.gone": ("processes/process_table.py", "Failure", 1),
    "history.unwritable": ("host/run_directory.py", "MachineError", 0),
    "proxy.refused": ("inputs/programs.py", "BadInput", 0),
    "rotation.unproved": ("proxies/envoy/admin_client.py", "MachineError", 0),
    "service.answers": ("processes/hang_detector.py", "_calm", 0),
    "service.hung": ("processes/hang_detector.py", "_report", 1),
    "webhook.invalid": ("webhook/review.py", "BadReview", 0),
    "webhook.refused": ("injection/objects.py", "InjectionRefused", 0),
    "watch.degraded": ("host/watching.py", "_say_once", 1),
}
"""For events whose text is passed on: the file and the function that is called with it, as the argument at a position,
or that returns it (None)."""

_DEFAULT_LEVEL = ("warning",)  # of FindingLog.once
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event's name, the levels it is logged with, and its text; a value stands as <name> or `…`."""

    name: str
    levels: tuple[str, ...]
    text: str


def log_events(package: Path) -> list[LogEvent]:
    """Return every event by name. Raises `UnresolvedError` for a call whose name or level is not in the source."""
    levels, texts = defaultdict[str, set[str]](set), defaultdict[str, list[str]](list)
    for module in _modules(package):
        for name, level, text in _logged(module):
            levels[name].update(level)
            texts[name].append(text)
    for name in levels.keys() & _WRITTEN_IN.keys():
        texts[name] += _written_elsewhere(package, *_WRITTEN_IN[name])
    return [
        LogEvent(name, tuple(sorted(levels[name], key=_LEVELS.index)), _longest(texts[name])) for name in sorted(levels)
    ]


def _written_elsewhere(package: Path, file: str, function: str, position: int | None) -> list[str]:
    module = Module.parse(package / file)
    return module.returns_of(function) if position is None else module.arguments_of(function, position)


def _longest(texts: Iterable[str]) -> str:
    return re.sub(f"{HOLE}+", HOLE, max(texts, key=lambda text: len(words(text))))


def _modules(package: Path) -> Iterator[Module]:
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] in _OTHER_PROGRAMS and place.as_posix() not in _COMMAND_LINE:
            continue
        if _LOGS.search(path.read_text(encoding="utf-8")):
            yield Module.parse(path)


def _logged(module: Module) -> Iterator[tuple[str, set[str], str]]:
    for call, function in module.calls:
        name = call_name(call)
        if name == "LogMessage":
            topic = LogTopic[ast.unparse(call.args[0]).rpartition(".")[2]]
            level = executor._LEVELS.get(topic, logging.INFO)  # noqa: SLF001  # defined only there
            yield topic.value, {logging.getLevelName(level).lower()}, module.text(call.args[1], function)
        elif name in _CALLS and function is not None and function.name not in _CALLS:
            yield from _events(module, call, function)


def _events(module: Module, call: ast.Call, function: Function) -> Iterator[tuple[str, set[str], str]]:
    at_level, at_event, at_text = _CALLS[call_name(call)]
    if len(call.args) <= max(at_event, at_text) or _is_of_a_topic(call.args[at_event]):
        return  # LogMessage has the text
    if value_of(call.args[at_text]) == "":
        return  # FindingLog.once forgets what was said
    events = _options(module, call.args[at_event], function)
    levels = _options(module, call.args[at_level], function) if at_level < len(call.args) else [_DEFAULT_LEVEL[0]]
    text = module.text(call.args[at_text], function)
    paired = zip(levels, events, strict=True) if len(levels) == len(events) else ((each, events[0]) for each in levels)
    for level, event in paired:
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", event):
            yield event, {level.rpartition(".")[2].lower()}, text


def _is_of_a_topic(node: ast.expr) -> bool:
    return ast.unparse(node).endswith(".topic.value")


def _options(module: Module, node: ast.expr, function: Function) -> list[str]:
    """Return what an expression may be: a string or a level's name for each branch."""
    found = [value_of(each) for each in module.branches(node, function)]
    if None in found:
        message = (
            f"{module.path}:{node.lineno}: cannot read {ast.unparse(node)!r}: write the event and its level as literals"
        )
        raise UnresolvedError(message)
    return [each for each in found if each is not None]
