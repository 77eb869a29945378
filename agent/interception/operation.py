"""Applies an interception, removes it, shows it and proves it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.core.errors import MachineError
from agent.interception import iptables, nftables, routes, validation
from agent.interception.iptables import Backend
from agent.interception.options import Mode, Options
from agent.interception.restore import Saved, restore_input
from agent.interception.rules import Family, rules

NFTABLES = "nftables"
"""The backend that is no iptables."""

BACKENDS = ("auto", "nft", "legacy", NFTABLES)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an operation: a line for people, and warnings."""

    text: str
    warnings: tuple[str, ...] = ()


def shown(options: Options, backend: str) -> Iterator[str]:
    """Yield the inputs that an empty machine would be given. Raises `UsageError` as `nftables.script` does."""
    if backend == NFTABLES:
        yield nftables.script(options)
        return
    for family in Family:
        yield f"# {'iptables' if family is Family.V4 else 'ip6tables'}-restore --noflush\n"
        yield restore_input(Saved(frozenset(), ()), rules(options, family))


def apply(options: Options, backend: str) -> Outcome:
    """Apply an interception; rules that another backend has of ours are removed behind it.

    Raises `MachineError`, after the rules are as they were.
    """
    families = _families()
    warnings = [f"{each} is left out: nothing here has such an address" for each in Family if each not in families]
    if Family.V6 in families and not routes.are_possible():
        warnings.append("the proxy cannot call the application by ::6: there is no program ip to add that address")
    changed = _add_places(options, families)
    if backend == NFTABLES or (backend == "auto" and iptables.only_nft()):
        changed |= iptables.apply_nftables(options) | _remove_from(_installed(None), families)
        changed |= _remove_places(options, families)
        return _outcome("nftables", map(str, families), warnings, is_changed=changed)
    chosen, warning = iptables.choose(backend)
    changes = iptables.apply(chosen, options, families)
    changed |= any(change.is_changed for change in changes)
    changed |= _remove_from(_installed(chosen), families) | _remove_table() | _remove_places(options, families)
    counts = [f"{change.family} {change.count} rules" for change in changes]
    return _outcome(chosen.name, counts, [*filter(None, [warning]), *warnings], is_changed=changed)


def remove(options: Options) -> Outcome:
    """Remove all rules, routes and addresses of an interception. Raises `MachineError`."""
    families = _families()
    changed = _remove_from(_installed(None), families) | _remove_table()
    if routes.are_possible():
        changed |= routes.remove(options, families)
        changed |= Family.V6 in families and routes.remove_passthrough_address()
    return Outcome("removed" if changed else "unchanged")


def prove(options: Options, port: int, timeout: float) -> None:
    """Prove the interception by a connection of each family. Raises `MachineError`."""
    for family in _families():
        validation.prove(options, family, port, timeout)


def _outcome(backend: str, parts: Iterable[str], warnings: Iterable[str], *, is_changed: bool) -> Outcome:
    return Outcome(f"applied by {backend}: {', '.join(parts)}" if is_changed else "unchanged", tuple(warnings))


def _families() -> list[Family]:
    found = iptables.families()
    if not found:
        message = "cannot intercept: no interface has an address in this network namespace; bring one up first"
        raise MachineError(message)
    return found


def _add_places(options: Options, families: Sequence[Family]) -> bool:
    """Make the routes and the address that the rules lead to, before there are rules; TPROXY cannot do without."""
    changed = options.mode is Mode.TPROXY and routes.add(options, families)
    if Family.V6 in families and options.mode is not Mode.NONE and routes.are_possible():
        changed |= routes.add_passthrough_address()
    return changed


def _remove_places(options: Options, families: Sequence[Family]) -> bool:
    """Remove those to which no rule leads any more."""
    if not routes.are_possible():
        return False
    changed = options.mode is not Mode.TPROXY and routes.remove(options, families)
    if Family.V6 in families and options.mode is Mode.NONE:
        changed |= routes.remove_passthrough_address()
    return changed


def _installed(without: Backend | None) -> list[Backend]:
    """Return the flavours that are installed, beside the one in use; a name without a flavour is one of them."""
    flavours = [each for each in (Backend("nft"), Backend("legacy")) if each.is_installed()]
    others = flavours or [each for each in (Backend(""),) if each.is_installed()]
    return [each for each in others if each != without]


def _remove_from(backends: Sequence[Backend], families: Sequence[Family]) -> bool:
    """Remove our rules from these backends; return whether there were any."""
    changed = False
    for backend in backends:
        for family in families:
            if backend.is_installed(family) and _has_own(backend, family):
                iptables.replace(backend, {family: []})
                changed = True
    return changed


def _has_own(backend: Backend, family: Family) -> bool:
    try:
        saved = Saved.parse(backend.save(family))
    except MachineError:  # the kernel lacks this flavour
        return False
    return bool(saved.own) or any(saved.own_chains(table) for table in ("raw", "mangle", "nat"))


def _remove_table() -> bool:
    return bool(iptables.listed_nftables()) and iptables.remove_nftables()
