"""`agent intercept` with real connections between two network namespaces."""

import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from tests.system.counts import count
from tests.system.pods import ANY, LOCAL, PASSTHROUGH, PEER, POD, PROXY, Pod, open_pod, run
from tests.system.room import Room

BACKENDS = ("nft", "legacy", "nftables")
ROUNDS = count("AGENT_INTERCEPT_ROUNDS", short=10, long=100)
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture
def pod(room: Room) -> Iterator[Pod]:
    """A pod whose proxy and application listen, and a peer."""
    with open_pod(room, 80, 443, 3306) as pod:
        pod.serve(*(f"{ANY[family]}:{port}" for family in (4, 6) for port in (15001, 15006, 8080, 15008, 15021, 22)))
        yield pod


def intercept(*arguments: str, code: int = 0) -> str:
    """Run the command in the pod; return its output."""
    command = [sys.executable, "-m", "agent", "intercept", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def arrivals(answers: Mapping[str, str]) -> dict[str, str]:
    """Return the port at which each connection arrived, or the error."""
    return {name: answer.partition(" ")[0] for name, answer in answers.items()}


def connections(pod: Pod, family: int) -> dict[str, str]:
    """Connect in every way that the rules tell apart."""
    peer, own, local = PEER[family], POD[family], LOCAL[family]
    names = ("app", "nobody", "ssh", "health", "tunnel")
    inbound = zip(names, pod.ask_from_peer(own, 8080, 9999, 22, 15021, 15008), strict=True)
    return {
        "app to peer": pod.ask(peer, 80)[0],
        "root to peer": pod.ask(peer, 80, uid=0)[0],
        "proxy to peer": pod.ask(peer, 80, uid=PROXY)[0],
        "proxy's group to peer": pod.ask(peer, 80, uid=7, gid=PROXY)[0],
        "app to database": pod.ask(peer, 3306)[0],
        "app to loopback": pod.ask(local, 8080)[0],
        "app to itself": pod.ask(own, 8080)[0],
        "proxy to loopback": pod.ask(local, 8080, uid=PROXY)[0],
        "proxy to itself": pod.ask(own, 8080, uid=PROXY)[0],
        "proxy's passthrough": pod.ask(own, 8080, uid=PROXY, source=PASSTHROUGH[family])[0],
        **{f"peer to {name}": answer for name, answer in inbound},
    }


@FAMILIES
@pytest.mark.parametrize("backend", ["nft", *(pytest.param(each, marks=pytest.mark.long) for each in BACKENDS[1:])])
def test_connections_arrive_where_they_should(backend: str, family: int, pod: Pod) -> None:
    intercept("--backend", backend, "--local-exclude-ports", "22,15021", "--local-outbound-ports-exclude", "3306")
    answers = connections(pod, family)
    assert arrivals(answers) == {
        "app to peer": "15001", "root to peer": "15001", "proxy to peer": "80", "proxy's group to peer": "80",
        "app to database": "3306", "app to loopback": "8080", "app to itself": "8080", "proxy to loopback": "8080",
        "proxy to itself": "15006", "proxy's passthrough": "8080", "peer to app": "15006", "peer to nobody": "15006",
        "peer to ssh": "22", "peer to health": "15021", "peer to tunnel": "15008",
    }  # fmt: skip
    assert answers["app to peer"].split()[1] == f"{PEER[family]}:80", "the original destination is known"
    assert answers["peer to nobody"].split()[1:] == [f"{POD[family]}:9999", PEER[family]]


@FAMILIES
@pytest.mark.parametrize("backend", ["nft", *(pytest.param(each, marks=pytest.mark.long) for each in BACKENDS[1:])])
def test_only_what_is_asked_for_is_intercepted(backend: str, family: int, pod: Pod) -> None:
    network = "10.77.0.0/24,fd77::/64"
    intercept(
        "--backend", backend, "--inbound-ports", "8080", "--service-cidr", "10.99.0.0/16", "--outbound-ports", "443"
    )
    assert [each.split()[0] for each in pod.ask(PEER[family], 80, 443)] == ["80", "15001"]
    assert [each.split()[0] for each in pod.ask_from_peer(POD[family], 8080, 22)] == ["15006", "22"]
    intercept("--backend", backend, "--service-cidr", network, "--outbound-owner-groups", "3000")
    assert pod.ask(PEER[family], 80, gid=3000)[0].startswith("15001 ")
    assert pod.ask(PEER[family], 80)[0].startswith("80 ")
    intercept("--backend", backend, "--service-exclude-cidr", network)
    assert pod.ask(PEER[family], 80)[0].startswith("80 ")
    intercept("--backend", backend, "--exclude-interfaces", "pod0")
    assert pod.ask(PEER[family], 80)[0].startswith("80 ")
    assert pod.ask_from_peer(POD[family], 8080)[0].startswith("8080 ")


@FAMILIES
@pytest.mark.parametrize("backend", ["nft", *(pytest.param(each, marks=pytest.mark.long) for each in BACKENDS[1:])])
def test_queries_reach_the_proxy(backend: str, family: int, pod: Pod) -> None:
    pod.serve(*(f"{LOCAL[each]}:15053" for each in (4, 6)), uid=PROXY)
    intercept("--backend", backend, "--capture-all-dns")
    assert pod.query(PEER[family]) == "15053"
    assert pod.query(LOCAL[family]) == "15053"
    assert pod.query(PEER[family], uid=PROXY) == "ConnectionRefusedError", "the proxy's own queries leave the pod"


@FAMILIES
@pytest.mark.parametrize("backend", ["nft", pytest.param("legacy", marks=pytest.mark.long)])
def test_with_tproxy_the_addresses_stay(backend: str, family: int, room: Room) -> None:
    with open_pod(room, 80) as pod:
        pod.serve(f"{ANY[family]}:15006", f"{ANY[family]}:15001", f"{ANY[family]}:22", transparent=True)
        intercept("--backend", backend, "--inbound-interception-mode", "TPROXY", "--local-exclude-ports", "22")
        assert pod.ask_from_peer(POD[family], 8080, 22) == [
            f"15006 {POD[family]}:8080 {PEER[family]}",
            f"22 {POD[family]}:22 {PEER[family]}",
        ]
        assert pod.ask(PEER[family], 80)[0].startswith("15001 ")


@pytest.mark.parametrize("backend", ["nft", *(pytest.param(each, marks=pytest.mark.long) for each in BACKENDS[1:])])
def test_while_rules_are_applied_again_no_connection_bypasses_them(backend: str, pod: Pod) -> None:
    flags = ("--backend", backend)
    intercept(*flags)
    with pod.hammering(PEER[4], 80) as outbound, pod.hammering(PEER[6], 80) as second:
        for number in range(ROUNDS):
            intercept(*flags, "--local-outbound-ports-exclude", str(1000 + number))
        counts, more = outbound(), second()
    assert counts.keys() | more.keys() == {"15001"}
    assert counts["15001"] > ROUNDS
    assert more["15001"] > ROUNDS


def test_an_open_connection_survives_and_rules_of_others_stay(pod: Pod) -> None:
    run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7", "-j", "ACCEPT")
    before = run("iptables-nft-save")
    intercept()
    with pod.hammering(PEER[4], 80) as finish:
        assert intercept() == "unchanged\n"
        intercept("--cleanup-only")
        counts = finish()
    assert counts.keys() <= {"15001", "80"}
    rules = [line for line in run("iptables-nft-save").splitlines() if line.startswith("-")]
    assert rules == [line for line in before.splitlines() if line.startswith("-")]


def test_a_half_applied_state_heals(pod: Pod) -> None:
    intercept()
    for command in (
        ("-F", "ISTIO_OUTPUT"),
        ("-A", "ISTIO_INBOUND", "-j", "RETURN"),
        ("-N", "ISTIO_STALE"),
        ("-A", "PREROUTING", "-p", "tcp", "-j", "ISTIO_STALE"),
        ("-D", "OUTPUT", "-j", "ISTIO_OUTPUT"),
    ):
        run("iptables-nft", "-t", "nat", *command)
    assert pod.ask(PEER[4], 80)[0].startswith("80 ")
    assert intercept().startswith("applied by iptables-nft")
    assert pod.ask(PEER[4], 80)[0].startswith("15001 ")
    assert "ISTIO_STALE" not in run("iptables-nft-save")
    assert intercept("--run-validation", "--skip-rule-apply", code=126) == "", "the proxy's ports are taken here"


def test_without_privileges_the_rules_can_be_shown_and_not_applied(room: Room) -> None:
    dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--reuid=0", "--"]
    command = [*dropped, sys.executable, "-m", "agent", "intercept"]
    shown = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (shown.returncode, refused.returncode) == (0, 1)
    assert shown.stdout.count("*nat\n") == 2
    assert "CAP_NET_ADMIN" in refused.stderr
    assert "Traceback" not in refused.stderr
