"""Parses Markdown: headings as GitHub names them, links, and the commands in code blocks."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(\w*).*?$\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_DEFINITION = re.compile(r"^\[[^\]]+\]: (\S+)", re.MULTILINE)
_ENDS = {";", "|", "||", "&", "&&", "(", ")", ">", ">>", "<", "2>", ";;"}


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of a page's links, except those within code."""
    shown = re.sub(r"`[^`\n]*`", "", prose(text))
    return [*_LINK.findall(shown), *_DEFINITION.findall(shown)]


def anchors(text: str) -> set[str]:
    """Return the anchors in a page."""
    names: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        names[slug] = names.get(slug, -1) + 1
    numbered = {f"{slug}-{number}" for slug, last in names.items() for number in range(1, last + 1)}
    return {*names, *numbered, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Return the language and the content of each code block."""
    for _, _, language, content in _FENCE.findall(text):
        yield language, content


def commands(text: str) -> Iterator[list[str]]:
    """Return the words of each command in a page that runs `agent`."""
    for language, content in blocks(text):
        if language in {"sh", "bash", "shell", "console"}:
            yield from _agent_lines(content, only_prompts=language == "console")


def _agent_lines(content: str, *, only_prompts: bool) -> Iterator[list[str]]:
    only_prompts = only_prompts and bool(re.search(r"^[$#] ", content, re.MULTILINE))
    for line in content.replace("\\\n", " ").splitlines():
        prompt = re.match(r"[$#] (?=agent )", line)
        if only_prompts and not prompt:
            continue
        command = line[prompt.end() :] if prompt else line
        if command.startswith("agent "):
            yield _words(command)


def _words(command: str) -> list[str]:
    """Split as a shell does, up to the end of the first command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if word in _ENDS:
            break
        found.append(word)
    return found


def target(page: Path, link: str) -> tuple[Path, str]:
    """Return the file and the anchor that a link on a page refers to."""
    path, _, anchor = link.partition("#")
    return (page.parent / path).resolve() if path else page, anchor
