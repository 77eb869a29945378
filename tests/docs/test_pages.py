from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agent.cli.run import agent
from agent.control_client import commands as quick
from agent.core.errors import UsageError
from docs import repository_links
from tests.docs import pages

ROOT = Path(__file__).parents[2]
PAGES = [
    path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))) if path.exists()
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the agent's variables, so that only the options of a page apply."""
    for option in agent.params:
        monkeypatch.delenv(str(option.envvar), raising=False)


def complaints(words: list[str]) -> Iterator[str]:
    """Parse a command line without running it; return the errors, if any."""
    try:
        context = agent.make_context("agent", words[1:])
        with context:
            rest = [*context._protected_args, *context.args]
            if rest and rest[0] != "--":
                _parse_command(context, rest)
    except click.exceptions.Exit:
        pass  # --help
    except (click.ClickException, UsageError) as error:
        yield f"{' '.join(words)}: {error}"


def _parse_command(context: click.Context, words: list[str]) -> None:
    name, command, rest = agent.resolve_command(context, words)
    assert command is not None
    assert name is not None
    if name in quick.OPTIONS:
        quick._read(name, rest, *quick.OPTIONS[name])
    else:
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link in pages.links(page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, anchor = pages.target(page, link)
        if not file.exists() or (anchor and anchor not in pages.anchors(file.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_can_be_parsed(page: Path) -> None:
    words = list(pages.commands(page.read_text(encoding="utf-8")))
    assert [each for command in words for each in complaints(command)] == []


def test_the_pages_have_commands_and_links() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sum(len(list(pages.commands(text))) for text in texts) > 10
    assert sum(len(pages.links(text)) for text in texts) > 10


@pytest.mark.parametrize(
    "line",
    ["agent nonsense", "agent --nonsense", "agent status --nonsense", "agent wait --nonsense", "agent --hold soon"],
)
def test_a_wrong_command_is_found(line: str) -> None:
    assert [each for words in pages.commands(f"```sh\n{line}\n```\n") for each in complaints(words)] != []


def test_what_counts_as_a_command() -> None:
    text = "```console\n$ agent wait && agent stop # both\nagent 0.1.0\n```\n```text\nagent no\n```\n"
    assert list(pages.commands(text)) == [["agent", "wait"]]
    assert list(pages.commands("```sh\nagent --certs a \\\n  -- -l debug > log &\n```\n")) == [
        ["agent", "--certs", "a", "--", "-l", "debug"]
    ]


def test_anchors_are_those_of_github() -> None:
    text = "# A `b`: c & d\n## Twice\n```sh\n# no heading\n```\n## Twice\n## [Link](x.md)\n"
    assert pages.anchors(text) == {"a-b-c--d", "twice", "twice-1", "link"}


def test_the_site_shows_files_of_the_repository_as_paths() -> None:
    shown = repository_links.on_page_markdown("[SECURITY.md](../SECURITY.md), [rules](../a/b) and [here](index.md#x)")
    assert shown == "`SECURITY.md`, rules (`a/b`) and [here](index.md#x)"
