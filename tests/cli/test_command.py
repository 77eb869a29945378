import os
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.agents import agent
from tests.pki import Authority
from tests.proxies.envoy.envoys import wants_envoy
from tests.system.eventually import eventually

OPTIONS = [
    "--proxy-bin", "--config", "--certs", "--watch", "--run-dir", "--listen", "--forward", "--status-port",
    "--drain-time", "--drain-deadline", "--stop-deadline", "--start-deadline", "--hold", "--restart", "--give-up",
    "--on-binary", "--wait / --no-wait", "--proxy-user", "--log-format", "--log-level", "--status-host",
]  # fmt: skip
AUTHORITY = Authority.create("ca")


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """A directory with a pair."""
    leaf = AUTHORITY.issue(["a.test"])
    made = tmp_path / "certs"
    made.mkdir()
    (made / "tls.crt").write_bytes(leaf.chain_pem)
    (made / "tls.key").write_bytes(leaf.key_pem)
    return made


def test_help_mentions_every_option_and_every_command() -> None:
    ran = agent("--help")
    assert ran.code == 0
    assert [option for option in OPTIONS if not re.search(rf"^  {re.escape(option)}\b", ran.out, re.MULTILINE)] == []
    for command in ("bootstrap", "check", "version"):
        assert re.search(rf"^  {command} ", ran.out, re.MULTILINE)
        assert agent(command, "-h").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither --config nor --certs is given"),
        (["--certs", "/c", "--drain-time", "45"], "is not a time span"),
        (["--certs", "/c", "--restart", "sometimes"], "--restart"),
        (["--certs", "/c", "--status-port", "70000"], "--status-port"),
        (["--certs", "/c", "--give-up", "0"], "--give-up"),
        (["--certs", "/c", "--listen", "here"], "cannot use the address tcp://here"),
        (["--certs", "/c", "--forward", "127.0.0.1:99999"], "it is not host:port"),
        (["--certs", "/c", "--run-dir", "/" + "x" * 90], "choose a shorter --run-dir"),
        (["--certs", "/c", "--proxy-user", "nobody-of-that-name"], "there is no such user"),
        (["--certs", "/c", "--", "--base-id", "3"], "the agent gives every epoch a base id of its own"),
        (["--certs", "/c", "--", "-c", "x"], "--config of the agent names the configuration"),
        (["--certs", "/c", "--", "--mode=validate"], "use: agent check"),
        (["--certs", "/c", "--", "--config-yaml"], "its value is missing"),
        (["--nonsense"], "--nonsense"),
        (["no-such-command"], "no-such-command"),
        (["bootstrap", "--", "-l", "debug"], ""),
    ],
    ids=lambda each: " ".join(each)[:40] if isinstance(each, list) else "",
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], said: str) -> None:
    ran = agent(*arguments)
    assert ran.code == 2, ran
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("/no/such/proxy", "cannot run /no/such/proxy: there is no such file"),
        ("no-such-proxy", "cannot find no-such-proxy in PATH"),
    ],
)
def test_a_missing_program_is_a_usage_error(proxy: str, said: str, certs: Path, tmp_path: Path) -> None:
    ran = agent("--certs", certs, "--run-dir", tmp_path / "r", "--status-port", 0, "--proxy-bin", proxy)
    assert (ran.code, said in ran.err) == (2, True), ran


def test_every_option_is_read_from_the_environment_and_the_command_line_wins(tmp_path: Path) -> None:
    ran = agent(env={"AGENT_CERTS": "/c", "AGENT_DRAIN_TIME": "soon"})
    assert ran.code == 2
    assert "is not a time span" in ran.err
    ran = agent("--listen", "there", env={"AGENT_CERTS": "/c:/d", "AGENT_LISTEN": "here"})
    assert "tcp://there" in ran.err
    ran = agent(env={"AGENT_CERTS": "/c", "AGENT_RUN_DIR": "/" + "x" * 90})
    assert "choose a shorter --run-dir" in ran.err


# bootstrap


def test_the_bootstrap_is_printed(certs: Path) -> None:
    ran = agent("bootstrap", "--certs", certs, "--listen", "[::1]:7443", "--forward", "app:80")
    assert ran.code == 0, ran
    tree = yaml.safe_load(ran.out)
    address = tree["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert address == {"address": "::1", "port_value": 7443}
    assert str(certs / "tls.key") in ran.out


def test_without_a_pair_no_bootstrap_can_be_printed(tmp_path: Path) -> None:
    ran = agent("bootstrap", "--certs", tmp_path)
    assert ran.code == 78
    assert "there is no certificate with its key" in ran.err


# check


@wants_envoy
def test_good_files_pass(certs: Path) -> None:
    ran = agent("check", "--certs", certs)
    assert ran.code == 0, ran
    assert "a.test" in ran.out
    assert "the proxy accepts it" in ran.out


@wants_envoy
def test_a_key_that_does_not_fit_is_refused(certs: Path) -> None:
    (certs / "tls.key").write_bytes(AUTHORITY.issue(["a.test"]).key_pem)
    config = certs.parent / "envoy.yaml"
    config.write_text(
        f"a: {{certificate_chain: {{filename: {certs / 'tls.crt'}}}, private_key: {{filename: {certs / 'tls.key'}}}}}"
    )
    ran = agent("check", "--config", config, "--certs", certs)
    assert ran.code == 1
    assert "tls.key" in ran.out + ran.err


@wants_envoy
def test_a_refusal_of_the_proxy_has_the_operators_paths(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text("nonsense: 1")
    ran = agent("check", "--config", config)
    assert ran.code == 1
    assert "no such field: 'nonsense'" in ran.out
    assert "/dev/shm" not in ran.out


def test_a_configuration_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text("a: b\nc: [\n")
    ran = agent("check", "--config", config)
    assert ran.code == 1
    assert f"cannot read {config}: line 3" in ran.out + ran.err


@wants_envoy
def test_the_proxys_own_arguments_are_checked_too(tmp_path: Path) -> None:
    """`agent check --help` shows [-- PROXY_ARGS...]."""
    config = tmp_path / "envoy.yaml"
    config.write_text("{}")
    ran = agent("check", "--config", config, "--", "--config-yaml", "nonsense: 1")
    assert ran.code == 1, ran
    assert "nonsense" in ran.out


@wants_envoy
def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    before = checks()
    config = tmp_path / "envoy.yaml"
    config.write_text("{}")
    assert agent("check", "--config", config).code == 0
    made = checks() - before  # possibly of another test run, whose check is in progress
    eventually(lambda: not made & checks(), what=f"{made} are gone")


def checks() -> set[str]:
    """Return the names of shared memory files that checks use while they run."""
    return {path.name for path in Path("/dev/shm").glob("agent-check-*")}


# version


@wants_envoy
def test_the_versions_are_printed() -> None:
    ran = agent("version")
    assert ran.code == 0, ran
    assert re.search(r"^agent \d", ran.out)
    assert "hot restart 11.104" in ran.out


def test_without_a_proxy_the_agents_version_is_printed_first() -> None:
    ran = agent("version", "--proxy-bin", "/no/such/proxy")
    assert ran.code == 2
    assert ran.out.startswith("agent ")
    assert "cannot run /no/such/proxy" in ran.err


# running


def test_missing_files_at_the_first_start_are_not_waited_for_if_that_is_asked(tmp_path: Path) -> None:
    run = Path("/tmp") / f"agent-test-{os.getpid()}"
    ran = agent("--config", tmp_path / "none.yaml", "--no-wait", "--run-dir", run, "--status-port", 0)
    assert ran.code == 78, ran
    assert "Traceback" not in ran.err
    for path in sorted(run.rglob("*"), reverse=True):
        path.unlink()
    run.rmdir()
