"""The closed sets of values in labels, in log fields and in JSON, from the enumerations in the code."""

import inspect
from dataclasses import dataclass
from enum import StrEnum

from agent.certificates.findings import Fault, WarningKind
from agent.core.attempts import AttemptResult
from agent.core.triggers import Trigger
from agent.metrics.registry import PHASES, STATES, Cut, Source
from agent.status.model import Blocked, Exit, Phase


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A closed set. `where` it appears; `meanings`: of each value, empty where the word says it."""

    title: str
    where: str
    meanings: dict[str, str]
    note: str = ""


def value_sets() -> list[ValueSet]:
    """Return every closed set, in the order of the page."""
    return [
        ValueSet("Triggers", "label `trigger`; `trigger` in `agent history --json`", _documented(Trigger)),
        ValueSet("Outcomes", "label `outcome`; `outcome` in `agent history --json`", _documented(AttemptResult)),
        ValueSet(
            "Phases", "label `phase`; `phases` in `agent history --json`", dict.fromkeys(PHASES, ""), _details(Phase)
        ),
        ValueSet("Epoch states", "label `state`; `epochs` in `agent status --json`", dict.fromkeys(STATES, "")),
        ValueSet("Exit causes", "label `cause` of `proxy_agent_proxy_exits_total`", _documented(Exit)),
        ValueSet("Closing causes", "label `cause` of `proxy_agent_connections_closed_total`", _documented(Cut)),
        ValueSet("Sources", "label `source` of `proxy_agent_scrape_failures_total`", _documented(Source)),
        ValueSet(
            "Blocked", "label `reason` of `proxy_agent_rotation_blocked`; `blocked` in `agent status --json`",
            _documented(Blocked),
        ),
        ValueSet(
            "Faults", "label `reason` of `proxy_agent_files_refused`; `fault` of the event `certificate.refused`",
            _documented(Fault),
        ),
        ValueSet("Warnings", "`worry` of the event `certificate.caution`", _documented(WarningKind)),
    ]  # fmt: skip


def _documented(values: type[StrEnum]) -> dict[str, str]:
    """Return the values with the comments that stand behind them."""
    comments = {}
    for line in inspect.getsource(values).splitlines():
        definition, _, comment = line.partition("  # ")
        comments[definition.partition(" = ")[0].strip()] = comment.strip()
    return {each.value: comments.get(each.name, "") for each in values}


def _details(documented: type) -> str:
    """Return a docstring without its first line."""
    return " ".join(inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[2].split())
