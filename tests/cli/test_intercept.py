"""`agent intercept`, `istio-iptables` and `istio-clean-iptables`, up to the operation that they ask for."""

import os
from ipaddress import ip_network

import pytest

from agent.cli import intercept as command
from agent.core.errors import MachineError
from agent.interception import namespace, operation
from agent.interception.operation import Outcome
from agent.interception.options import Mode, Options
from tests.cli.runner import run


class Operations:
    """Records what is asked for."""

    def __init__(self) -> None:
        self.applied: list[tuple[Options, str]] = []
        self.removed: list[Options] = []
        self.proven: list[tuple[int, float]] = []
        self.entered: list[str] = []
        self.is_proven = True

    def apply(self, options: Options, backend: str) -> Outcome:
        self.applied.append((options, backend))
        return Outcome("applied", ("look out",))

    def remove(self, options: Options) -> Outcome:
        self.removed.append(options)
        return Outcome("removed")

    def prove(self, _: Options, port: int, timeout: float) -> None:
        self.proven.append((port, timeout))
        if not self.is_proven:
            message = "cannot prove it"
            raise MachineError(message)


@pytest.fixture(autouse=True)
def operations(monkeypatch: pytest.MonkeyPatch) -> Operations:
    """Take the place of the operations; the environment is empty."""
    for name in [name for name in os.environ if name != "PATH"]:
        monkeypatch.delenv(name)
    made = Operations()
    for name in ("apply", "remove", "prove"):
        monkeypatch.setattr(operation, name, getattr(made, name))
    monkeypatch.setattr(namespace, "enter", made.entered.append)
    monkeypatch.setattr(command, "_name_servers", lambda: ["10.0.0.1"])
    return made


def by_agent(*arguments: str) -> tuple[int, str]:
    ran = run(command.intercept, *arguments)
    return ran.code, ran.out


def test_by_default_everything_is_intercepted(operations: Operations) -> None:
    assert by_agent() == (0, "applied\n")
    assert operations.applied == [(Options(dns_servers=("10.0.0.1",)), "auto")]
    assert (operations.proven, operations.entered) == ([], [])


def test_under_istios_name_nothing_is_by_default(operations: Operations, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main("istio-iptables", []) == 0
    [(options, backend)] = operations.applied
    assert (options.inbound, options.networks, backend) == ((), (), "auto")
    assert capsys.readouterr() == ("applied\n", "look out\n")


def test_an_init_container_of_istio(operations: Operations) -> None:
    line = "-p 15001 -z 15006 -u 1337 -m TPROXY -i * -x 10.9.0.0/16 -b * -d 15090,15021 -q 8443 -o 3306 -c net1 -k vm0"
    words = [*line.split(), "--log_output_level=default:info", "--redirect-dns=true", "--drop-invalid", "--reconcile"]
    assert command.main("istio-iptables", words) == 0
    [(options, _)] = operations.applied
    assert options == Options(
        mode=Mode.TPROXY, inbound_excluded=(15090, 15021), outbound=(8443,), outbound_excluded=(3306,),
        networks_excluded=(ip_network("10.9.0.0/16"),), interfaces_excluded=("net1",), virtual_interfaces=("vm0",),
        dns=True, dns_servers=("10.0.0.1",), drop_invalid=True,
    )  # fmt: skip


def test_istios_long_names_and_variables(operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTIO_OUTBOUND_PORTS", "8443")
    monkeypatch.setenv("CAPTURE_ALL_DNS", "true")
    command.main("istio-iptables", ["--istio-inbound-ports", "80", "--istio-service-cidr=10.0.0.0/8"])
    [(options, _)] = operations.applied
    assert (options.inbound, options.outbound) == ((80,), (8443,))
    assert (options.networks, options.dns, options.dns_servers) == ((ip_network("10.0.0.0/8"),), True, None)


@pytest.mark.parametrize(
    ("words", "backend"),
    [
        (["--native-nftables"], "nftables"),
        (["--force-iptables-binary=legacy"], "legacy"),
        (["--force-iptables-binary", "nft"], "nft"),
    ],
)
def test_istios_choice_of_a_backend(words: list[str], backend: str, operations: Operations) -> None:
    assert command.main("istio-iptables", words) == 0
    assert operations.applied[0][1] == backend


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cni-mode"], "cannot use --cni-mode: a CNI plugin applies its rules itself"),
        (["--force-iptables-binary=x"], "cannot use --force-iptables-binary x"),
        (["-b", "80:90"], "cannot use --inbound-ports 80:90"),
        (["--dry-run=maybe"], "cannot use --dry-run: 'maybe' is not a boolean"),
        (["--run-validation", "--probe-timeout=soon"], "cannot use --iptables-probe-port or --probe-timeout"),
    ],
)
def test_what_istio_cannot_have_ends_with_1(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main("istio-iptables", words) == 1
    assert f"istio-iptables: {message}" in capsys.readouterr().err


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main("istio-iptables", ["--new=1"]) == 0
    assert "istio-iptables: the unknown flag --new is ignored\n" in capsys.readouterr().err


def test_a_clean_up_removes_all(operations: Operations) -> None:
    assert command.main("istio-clean-iptables", ["-b", "*"]) == 0
    assert by_agent("--cleanup-only") == (0, "removed\n")
    assert (len(operations.removed), operations.applied) == (2, [])


def test_a_dry_run_prints_the_rules_and_does_nothing(operations: Operations) -> None:
    code, out = by_agent("-n", "--inbound-ports", "80")
    assert code == 0
    assert "-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT\n" in out
    assert operations.applied == []


def test_the_interception_is_proven_on_request(operations: Operations) -> None:
    assert by_agent("--run-validation", "--probe-timeout", "2s", "--iptables-probe-port=1") == (0, "applied\nproven\n")
    operations.is_proven = False
    assert by_agent("--run-validation", "--skip-rule-apply")[0] == 126
    assert (operations.proven, len(operations.applied)) == ([(1, 2.0), (15002, 5.0)], 1)


def test_in_a_pod_the_proxys_own_ports_are_left_out(operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    by_agent("--local-exclude-ports", "22")
    assert operations.applied[0][0].inbound_excluded == (22, 15090, 15021, 15020)


def test_another_network_namespace_is_entered_first(operations: Operations) -> None:
    by_agent("--network-namespace", "/proc/7/ns/net")
    assert operations.entered == ["/proc/7/ns/net"]
