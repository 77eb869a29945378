"""Interceptions of a network namespace, by every backend."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.core.errors import MachineError, UsageError
from agent.interception import iptables, operation
from agent.interception.options import Mode, Options
from agent.interception.rules import Family

BACKENDS = ("nft", "legacy", "nftables")
MODES = [
    *((backend, Options()) for backend in BACKENDS),
    *((backend, Options(dns=True, drop_invalid=True)) for backend in BACKENDS),
    ("nft", Options(mode=Mode.TPROXY)),
    ("legacy", Options(mode=Mode.TPROXY)),
]

network = pytest.mark.usefixtures("network")


def everything() -> list[str]:
    """Return all that an interception changes, counters apart."""
    saves = [f"{command}-{flavour}-save" for command in ("iptables", "ip6tables") for flavour in ("nft", "legacy")]
    texts = [subprocess.run([save], capture_output=True, text=True, check=True).stdout for save in saves]
    rules = [line for text in texts for line in text.splitlines() if line.startswith(("-A", ":ISTIO"))]
    shown = [["-4", "rule"], ["-6", "rule"], ["-6", "address", "show", "dev", "lo"]]
    lists = [subprocess.run(["ip", *each], capture_output=True, text=True, check=True).stdout for each in shown]
    return [*rules, *lists, iptables.listed_nftables()]


@network
@pytest.mark.parametrize(("backend", "options"), MODES, ids=lambda each: each if isinstance(each, str) else "")
def test_it_is_applied_once_proven_and_removed_whole(backend: str, options: Options) -> None:
    before = everything()
    first = operation.apply(options, backend)
    assert first.text.startswith(f"applied by {'iptables-' if backend != 'nftables' else ''}{backend}: IPv4")
    assert first.warnings == ()
    operation.prove(options, 15002, 5.0)
    assert operation.apply(options, backend).text == "unchanged"
    assert operation.remove(Options()).text == "removed"
    assert everything() == before
    assert operation.remove(Options()).text == "unchanged"
    with pytest.raises(MachineError, match="cannot prove"):
        operation.prove(options, 15002, 0.2)


@network
def test_nft_alone_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nft", "ip"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert operation.apply(Options(), "auto").text.startswith("applied by nftables: IPv4")
    operation.prove(Options(), 15002, 5.0)
    with pytest.raises(MachineError, match="cannot use the backend nft: there is no iptables-nft-restore"):
        operation.apply(Options(), "nft")


@network
def test_one_backend_takes_over_from_another() -> None:
    before = everything()
    for backend in (*BACKENDS, *BACKENDS):
        operation.apply(Options(), backend)
        operation.prove(Options(), 15002, 5.0)
        there = everything()
        has_rules = {"nftables": any("proxy_agent" in text for text in there)}
        has_rules["iptables"] = any(text.startswith("-A ISTIO_OUTPUT") for text in there)
        assert has_rules == {"nftables": backend == "nftables", "iptables": backend != "nftables"}
        assert sum(text.startswith("-A PREROUTING -p tcp -j ISTIO_INBOUND") for text in there) <= 2
    operation.remove(Options())
    assert everything() == before


@network
def test_one_mode_takes_over_from_another() -> None:
    before = everything()
    for mode in (Mode.TPROXY, Mode.REDIRECT, Mode.TPROXY, Mode.NONE):
        operation.apply(Options(mode=mode), "nft")
    assert everything() == before


@network
def test_without_ipv6_it_is_left_out() -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1", encoding="ascii")
    outcome = operation.apply(Options(), "nft")
    assert outcome.text == "applied by iptables-nft: IPv4 13 rules"
    assert outcome.warnings == ("IPv6 is left out: nothing here has such an address",)
    operation.prove(Options(), 15002, 5.0)


@network
def test_without_any_address_there_is_nothing_to_intercept() -> None:
    subprocess.run(["ip", "address", "flush", "dev", "lo"], check=True)
    with pytest.raises(MachineError, match="no interface has an address in this network namespace"):
        operation.apply(Options(), "nft")


def test_what_would_be_applied_can_be_shown_by_anybody() -> None:
    text = "".join(operation.shown(Options(), "auto"))
    assert text.count("*nat\n") == text.count("COMMIT\n") == len(Family)
    assert "# ip6tables-restore --noflush\n*nat\n" in text
    assert "table inet proxy_agent {" in "".join(operation.shown(Options(), "nftables"))
    with pytest.raises(UsageError, match="TPROXY"):
        list(operation.shown(Options(mode=Mode.TPROXY), "nftables"))


@network
def test_without_the_program_ip_the_rest_is_done_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.interception.routes.are_possible", lambda: False)
    outcome = operation.apply(Options(), "nft")
    assert outcome.text.startswith("applied by iptables-nft: IPv4 13 rules")
    assert [warning.split(":")[0] for warning in outcome.warnings] == ["the proxy cannot call the application by "]
    assert operation.remove(Options()).text == "removed"
