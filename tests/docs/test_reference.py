import re

from agent.cli.run import agent
from agent.control_client import commands
from agent.core.effects import LogTopic
from agent.metrics.registry import Metrics
from docs import reference
from docs.generator.literal_text import words
from docs.generator.log_events import log_events
from docs.generator.metric_names import metric_names
from tests.status.sample import overview

PAGE = (reference.ROOT / "docs/reference.md").read_text(encoding="utf-8")
MANUAL = (reference.ROOT / "docs/man/agent.1").read_text(encoding="utf-8").replace("\\-", "-").replace("\\fB", " ")
EVENTS = {event.name: event for event in log_events(reference.ROOT / "agent")}


def spellings() -> set[str]:
    """Return every spelling of an option of `agent` and its commands."""
    found = {each for valued, flags in commands.OPTIONS.values() for each in (*valued, *flags)}
    for command in (agent, *agent.commands.values()):
        for each in command.params:
            found |= {*each.opts, *each.secondary_opts} if each.param_type_name == "option" else set()
    return found


def section(command: str) -> str:
    return PAGE.partition(f"\n### {command}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def test_the_generated_files_are_up_to_date() -> None:
    assert reference.stale() == [], "run python docs/reference.py"


def test_every_option_is_in_the_reference_and_in_the_manual() -> None:
    assert len(spellings()) > 50
    for text in (PAGE, MANUAL):
        assert [each for each in spellings() if not re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", text)] == []


def test_every_command_has_a_section_with_its_own_options() -> None:
    for name, command in {"": agent, **agent.commands}.items():
        shown = section(f"agent {name}".strip())
        assert shown, name
        assert [
            each for option in command.params for each in option.opts if each[:2] == "--" and each not in shown
        ] == []


def test_every_option_of_agent_has_its_variable() -> None:
    variables = {str(each.envvar) for each in agent.params if each.envvar}
    assert "AGENT_DRAIN_TIME" in variables
    assert [each for each in variables if f"`{each}`" not in section("agent")] == []


def test_every_metric_of_a_scrape_is_in_the_reference() -> None:
    exposed = re.findall(r"^# TYPE (\S+) ", Metrics(overview).expose(openmetrics=False).decode(), re.MULTILINE)
    assert len(exposed) > 20
    assert [each for each in exposed if f"| `{each}` |" not in PAGE] == []
    assert all(each.help for each in metric_names())


def test_every_event_has_a_level_and_a_text_with_words() -> None:
    assert [name for name, event in EVENTS.items() if not event.levels or not words(event.text)] == []
    assert {topic.value for topic in LogTopic} <= EVENTS.keys()
    assert {"certificate.refused", "epoch.serving", "service.hung", "service.answers", "bug"} <= EVENTS.keys()
    assert EVENTS["epoch.starting"].levels == ("debug", "info")


def test_every_name_that_is_logged_in_one_line_is_found() -> None:
    """Compare with a plain text search."""
    call = re.compile(r'(?:log_event|say|once)\(\s*(?:logging\.\w+, )?"([a-z_]+\.[a-z_]+)",')
    sources = [path.read_text(encoding="utf-8") for path in (reference.ROOT / "agent").rglob("*.py")]
    assert {name for source in sources for name in call.findall(source)} <= EVENTS.keys()
