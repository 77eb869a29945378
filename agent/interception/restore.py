"""Writes the input of iptables-restore that turns what is there into what is wanted, in one transaction a table.

Between the old rules and the new ones there is no moment without either. Rules and chains of others stay as they are.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.interception.rules import PREFIX, Rule

TABLES = ("raw", "mangle", "nat")

_COUNTERS = re.compile(r"\[\d+:\d+\]")
_JUMP = re.compile(rf"(?:^|\s)-[jg] {PREFIX}\S+")


@dataclass(frozen=True, slots=True)
class Saved:
    """The state that iptables-save printed."""

    chains: frozenset[tuple[str, str]]
    """Table and name of each chain."""
    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, text: str) -> "Saved":
        """Parse the output of iptables-save."""
        table, chains, rules = "", set[tuple[str, str]](), list[Rule]()
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:].strip()
            elif line.startswith(":"):
                chains.add((table, line[1:].split()[0]))
            elif line.startswith("-A "):
                _, chain, *rest = line.split(" ", 2)
                rules.append(Rule(table, chain, "".join(rest)))
        return cls(frozenset(chains), tuple(rules))

    @property
    def own(self) -> list[Rule]:
        """The rules of an interception: all of our chains, and the jumps to them."""
        return [rule for rule in self.rules if rule.chain.startswith(PREFIX) or _JUMP.search(rule.text)]

    def own_chains(self, table: str) -> set[str]:
        """Return the names of our chains in a table."""
        return {name for each, name in self.chains if each == table and name.startswith(PREFIX)}

    def has_rules(self, table: str) -> bool:
        """Return whether a table has any rule."""
        return any(rule.table == table for rule in self.rules)


def restore_input(saved: Saved, wanted: Sequence[Rule]) -> str:
    """Return the input of `iptables-restore --noflush`; empty if there is nothing to do."""
    return "".join(_table(table, saved, [rule for rule in wanted if rule.table == table]) for table in TABLES)


def _table(table: str, saved: Saved, wanted: Sequence[Rule]) -> str:
    present = saved.own_chains(table)
    needed = {rule.chain for rule in wanted if rule.chain.startswith(PREFIX)}
    if not present and not wanted:
        return ""
    return "\n".join(
        [f"*{table}", *_lines(table, saved, wanted, sorted(present | needed), sorted(present - needed)), "COMMIT", ""]
    )


def _lines(
    table: str, saved: Saved, wanted: Iterable[Rule], chains: Iterable[str], stale: Iterable[str]
) -> Iterator[str]:
    """Yield the lines of a table: its chains are made or emptied first, old jumps go, new rules and jumps come."""
    yield from (f":{chain} - [0:0]" for chain in chains)
    jumps = (rule for rule in saved.own if rule.table == table and not rule.chain.startswith(PREFIX))
    yield from (f"-D {rule.chain} {rule.text}" for rule in jumps)
    yield from map(str, wanted)
    yield from (f"-X {chain}" for chain in stale)


def without_counters(text: str) -> str:
    """Return the output of iptables-save without comments and counters, to compare two of them."""
    lines = (_COUNTERS.sub("", line).rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))
