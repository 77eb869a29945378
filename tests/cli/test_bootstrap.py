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
