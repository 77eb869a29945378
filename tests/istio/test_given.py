"""Values of flags, variables and files, by type."""

from collections.abc import Mapping

import pytest

from agent.core.errors import UsageError
from agent.istio import go_flags, proxy_flags
from agent.istio.given import Given
from tests.istio.machines import machine


def given(*words: str, environment: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> Given:
    line = go_flags.parse(words, proxy_flags.FLAGS)
    return Given(line, environment or {}, machine(files))


def test_a_flag_wins_over_the_configuration_and_that_over_a_default() -> None:
    made = given("--statusPort=1", "--drainDuration=2s")
    assert made.number("statusPort", 5, 9) == 1
    assert made.number("proxyAdminPort", 5, 9) == 5
    assert made.number("proxyAdminPort", None, 9) == 9
    assert (made.seconds("drainDuration", 7.0), made.seconds("connectTimeout", 7.0)) == (2.0, 7.0)
    assert made.seconds("connectTimeout") is None
    assert (made.text("ip"), made.is_set("log_as_json")) == ("", False)


def test_files_of_the_pod_are_read_and_their_bad_lines_noted() -> None:
    files = {"/etc/istio/pod/labels": 'app="web"\noops\n', "/etc/istio/pod/annotations": 'sidecar.istio.io/x="a, b,"\n'}
    made = given(files=files)
    assert made.pod.labels == {"app": "web"}
    assert made.listed("x") == ("a", "b")
    [note] = made.notes
    assert note.startswith("/etc/istio/pod/labels: line 2 is left out")


def test_the_mesh_file_has_the_lowest_word() -> None:
    files = {
        "./etc/istio/config/mesh": "defaultConfig: {statusPort: 1, concurrency: 3}",
        "/m": "defaultConfig: {statusPort: 2}",
    }
    environment = {"PROXY_CONFIG": "concurrency: 4"}
    made = given(files=files, environment=environment)
    assert (made.config.status_port, made.config.concurrency) == (1, 4)
    assert given("--meshConfig=/m", files=files).config.status_port == 2


def test_an_address_has_a_host_and_a_port() -> None:
    assert given("--zipkinAddress=z:9411").endpoint("zipkinAddress", "other:1") == ("z", 9411)
    assert given().endpoint("zipkinAddress", "[fd00::1]:9411") == ("fd00::1", 9411)
    assert given().endpoint("zipkinAddress", None) is None
    for text in ("z", "z:", ":1", "z:0", "z:70000"):
        with pytest.raises(UsageError, match="--zipkinAddress or ProxyConfig: it is not of the form host:port"):
            given(f"--zipkinAddress={text}").endpoint("zipkinAddress", None)


def test_a_bad_port_in_a_variable_is_refused() -> None:
    assert given(environment={"P": "5"}).variable_port("P", 1) == 5
    assert given(environment={"P": ""}).variable_port("P", 1) == 1
    with pytest.raises(UsageError, match="cannot use the variable P: 'x' is not a port"):
        given(environment={"P": "x"}).variable_port("P", 1)


def test_a_bad_duration_or_boolean_in_a_variable_is_noted() -> None:
    made = given(environment={"D": "5", "B": "yes", "E": "3s", "C": "true"})
    assert (made.variable_seconds("D", 1.0), made.variable_seconds("E", 1.0)) == (1.0, 3.0)
    assert (made.is_true("B"), made.is_true("C"), made.is_true("none")) == (False, True, False)
    assert [note.split()[0] for note in made.notes] == ["D", "B"]
