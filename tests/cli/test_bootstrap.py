from pathlib import Path

import click
import pytest
import yaml

from agent.cli.bootstrap import bootstrap
from agent.core.errors import BadInput, UsageError
from tests.cli.runner import run
from tests.pki import Authority

PROXY = ("--proxy-bin", "/bin/true")  # it is not started


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    leaf = Authority.create("ca").issue(["a.test"])
    (tmp_path / "tls.crt").write_bytes(leaf.chain_pem)
    (tmp_path / "tls.key").write_bytes(leaf.key_pem)
    return tmp_path


def test_the_bootstrap_serves_the_pairs_at_the_address(certs: Path) -> None:
    ran = run(bootstrap, *PROXY, "--certs", certs, "--listen", "[::1]:7443", "--forward", "app:80")
    tree = yaml.safe_load(ran.out)
    (listener,) = tree["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "::1", "port_value": 7443}
    assert [str(certs / name) in ran.out for name in ("tls.crt", "tls.key")] == [True, True]
    assert ("app" in ran.out, ran.err, ran.code) == (True, "", 0)
    assert ran.out.endswith("\n")
    assert not ran.out.endswith("\n\n")


def test_a_configuration_that_is_given_is_ignored(certs: Path) -> None:
    given = run(bootstrap, *PROXY, "--certs", certs, "--config", certs / "none.yaml", AGENT_CONFIG="/none")
    assert given.out == run(bootstrap, *PROXY, "--certs", certs).out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--certs", "/none"), BadInput),
        ((), UsageError),
        (("--config", "/etc/envoy.yaml"), UsageError),
        (("--certs", "/none", "--listen", "x"), UsageError),
        (("--certs", "/none", "--proxy-bin", "/none"), UsageError),
        (("--certs", "/none", "--status-port", "1"), click.UsageError),
        (("--certs", "/none", "--", "-l", "debug"), click.UsageError),
    ],
)
def test_what_cannot_be_used_prints_nothing(arguments: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        run(bootstrap, *PROXY, *arguments)


def test_the_bootstrap_of_a_pod_is_printed_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    pod = {"POD_NAME": "web", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.0.0.7"}
    flags = ("--discoveryAddress=pilot:15010", f"--binaryPath={tmp_path}/proxy", "--stsPort=1")
    proxy = tmp_path / "proxy"
    proxy.write_text("#!/bin/sh\necho 'version: 0/1.40.0/x 11.104'\n", encoding="utf-8")
    proxy.chmod(0o755)
    ran = run(bootstrap, "--istio", "--", "router", *flags, **pod)
    assert yaml.safe_load(ran.out)["node"]["id"] == "router~10.0.0.7~web.shop~shop.svc.cluster.local"
    assert "no effect here: --stsPort\n" in ran.err


def test_flags_of_pilot_agent_need_the_option() -> None:
    with pytest.raises(
        click.UsageError, match="cannot use sidecar: flags after -- are those of pilot-agent, for --istio"
    ):
        run(bootstrap, *PROXY, "--certs", "/none", "--", "sidecar")
