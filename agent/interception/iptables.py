"""Runs iptables-save, iptables-restore and nft, and chooses between the backends that a machine has."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import MachineError
from agent.interception import nftables
from agent.interception.options import Options
from agent.interception.restore import Saved, restore_input, without_counters
from agent.interception.rules import Family, Rule, rules

_TIMEOUT = 60.0  # seconds: another program may hold the lock of the tables
_COMMANDS = {Family.V4: "iptables", Family.V6: "ip6tables"}
_PROBE = "*nat\n:ISTIO_PROBE - [0:0]\n-A ISTIO_PROBE -j RETURN\n-X ISTIO_PROBE\nCOMMIT\n"


@dataclass(frozen=True, slots=True)
class Backend:
    """A flavour of iptables: `nft`, `legacy`, or empty for programs without a flavour in their names."""

    flavour: str

    @property
    def name(self) -> str:
        """Its name, for people."""
        return f"iptables-{self.flavour}" if self.flavour else "iptables"

    def program(self, family: Family, verb: str) -> str:
        """Return the name of a program: iptables-nft-save."""
        return "-".join(filter(None, [_COMMANDS[family], self.flavour, verb]))

    def is_installed(self, family: Family = Family.V4) -> bool:
        """Return whether its programs are there."""
        return all(shutil.which(self.program(family, verb)) for verb in ("save", "restore"))

    def save(self, family: Family) -> str:
        """Return the rules of a family. Raises `MachineError`."""
        return run([self.program(family, "save")])

    def restore(self, family: Family, text: str) -> None:
        """Apply an input, all of a table or nothing. Raises `MachineError`."""
        if text:
            run([self.program(family, "restore"), "--noflush", "-w"], text)


def installed() -> list[Backend]:
    """Return the flavours whose programs are there."""
    return [each for each in (Backend("nft"), Backend("legacy"), Backend("")) if each.is_installed()]


def only_nft() -> bool:
    """Return whether there is nft and no iptables, as in an image to which nft was added."""
    return not installed() and shutil.which("nft") is not None


def choose(name: str) -> tuple[Backend, str]:
    """Return the backend of a name (auto, nft, legacy), and a warning, if there is one. Raises `MachineError`.

    `auto` is the one whose nat table is in use: rules of both would both apply.
    """
    there = installed()
    if name != "auto":
        wanted = next((each for each in there if each.flavour == name), None)
        if wanted is None:
            message = f"cannot use the backend {name}: there is no iptables-{name}-restore in PATH; install iptables"
            raise MachineError(message)
        return wanted, ""
    if not there:
        message = "cannot change the packet filter: there is neither iptables-restore nor nft in PATH; install iptables"
        raise MachineError(message)
    used = {each.flavour for each in there if each.flavour and _is_in_use(each)}
    warning = (
        "rules of iptables-nft and of iptables-legacy both exist and both apply; remove one" if len(used) > 1 else ""
    )
    wanted = there[0]
    if used == {"legacy"} and _works(Backend("legacy")):
        wanted = Backend("legacy")
    return wanted, warning


def _is_in_use(backend: Backend) -> bool:
    try:
        return Saved.parse(backend.save(Family.V4)).has_rules("nat")
    except MachineError:
        return False


def _works(backend: Backend) -> bool:
    """Return whether the kernel takes a rule in the nat table."""
    try:
        run([backend.program(Family.V4, "restore"), "--noflush", "--test", "-w"], _PROBE)
    except MachineError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Change:
    """The result for one family: the number of its rules, and whether anything differs from before."""

    family: Family
    count: int
    is_changed: bool


def apply(backend: Backend, options: Options, families: Sequence[Family]) -> list[Change]:
    """Apply an interception to each family; if one fails, put the earlier ones back. Raises `MachineError`."""
    return replace(backend, {family: rules(options, family) for family in families})


def replace(backend: Backend, wanted: dict[Family, list[Rule]]) -> list[Change]:
    """Replace the rules of each family; if one fails, put the earlier ones back. Raises `MachineError`."""
    done: dict[Family, list[Rule]] = {}
    changes = []
    try:
        for family, listed in wanted.items():
            before = backend.save(family)
            saved = Saved.parse(before)
            done[family] = saved.own
            backend.restore(family, restore_input(saved, listed))
            is_changed = without_counters(before) != without_counters(backend.save(family))
            changes.append(Change(family, len(listed), is_changed))
    except MachineError:
        _put_back(backend, done)
        raise
    return changes


def _put_back(backend: Backend, done: dict[Family, list[Rule]]) -> None:
    for family, earlier in done.items():
        backend.restore(family, restore_input(Saved.parse(backend.save(family)), earlier))


def apply_nftables(options: Options) -> bool:
    """Apply an interception as a table of nftables; return whether anything differs. Raises `MachineError`."""
    return _run_nft(nftables.script(options))


def remove_nftables() -> bool:
    """Remove our table of nftables; return whether there was one. Raises `MachineError`."""
    return _run_nft(nftables.removal())


def _run_nft(script: str) -> bool:
    before = listed_nftables()
    run(["nft", "-f", "-"], script)
    return before != listed_nftables()


def listed_nftables() -> str:
    """Return our table as nft lists it; empty without one, or without nft."""
    if shutil.which("nft") is None:
        return ""
    done = subprocess.run(
        ["nft", "list", "table", *nftables.TABLE.split()],  # noqa: S607  # by PATH, as all of them
        capture_output=True, text=True, check=False, timeout=_TIMEOUT,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


def families() -> list[Family]:
    """Return the families that have an address in this network namespace."""
    marks = {Family.V4: ("fib_trie", "host LOCAL"), Family.V6: ("if_inet6", " ")}  # one for each address
    return [family for family, (name, mark) in marks.items() if mark in _read(Path("/proc/net", name))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # the kernel lacks this family
        return ""


def run(command: Sequence[str], text: str | None = None) -> str:
    """Run a program to its end and return its output. Raises `MachineError` with its complaint and a remedy."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=_TIMEOUT, errors="replace"
        )
    except FileNotFoundError:
        message = f"cannot run {command[0]}: it is not in PATH; install it"
        raise MachineError(message) from None
    except subprocess.TimeoutExpired:
        message = f"cannot run {command[0]}: it has not ended after {_TIMEOUT:.0f} s; look for what holds its lock"
        raise MachineError(message) from None
    if done.returncode != 0:
        message = (
            f"cannot change the packet filter: {command[0]} says: {_complaint(done.stderr)}; {_remedy(done.stderr)}"
        )
        raise MachineError(message)
    return done.stdout


def _complaint(text: str) -> str:
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "Try `", "Error occ"))
    ]
    return " ".join(lines[:3]) or "nothing"


def _remedy(text: str) -> str:
    if "Permission denied" in text or "Operation not permitted" in text:
        return "it needs CAP_NET_ADMIN and CAP_NET_RAW"
    if "Table does not exist" in text or "can't initialize" in text or "No chain/target/match" in text:
        return "load the modules on the node (modprobe iptable_nat xt_REDIRECT xt_owner), or let a CNI plugin do it"
    return "see its manual page"
