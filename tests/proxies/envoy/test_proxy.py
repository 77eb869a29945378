import json
import os
from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.handoff.socket_paths import SocketPaths
from agent.proxies.envoy import yaml_nodes
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import DEFAULT_LOG_FORMAT, UDP_OVERLAP, Envoy
from agent.proxies.envoy.push_contexts import PushMode
from agent.proxies.interface import Complaint
from tests.proxies.envoy.envoys import memory, run, wants_envoy

COPY = 31
NAMES = SocketPaths(Path("/run/7"), 12)
OWNED = [
    "-c", "--config-path", "--restart-epoch", "--base-id", "--base-id-path", "--use-dynamic-base-id", "--socket-path",
    "--socket-mode", "--drain-time-s", "--parent-shutdown-time-s", "--admin-address-path", "--disable-hot-restart",
    "--skip-hot-restart-on-no-parent", "--skip-hot-restart-parent-stats", "--hot-restart-version", "--version",
    "--mode",
]  # fmt: skip

ENVOY = Envoy(Flags(), 1.0)


@pytest.mark.parametrize("flag", OWNED)
@pytest.mark.parametrize("spelling", ["{} x", "{}=x"])
def test_a_flag_that_the_agent_owns_is_refused_with_the_reason(flag: str, spelling: str) -> None:
    with pytest.raises(UsageError, match=f"cannot pass {flag} to the proxy: "):
        Flags.parse(["-l", "debug", *spelling.format(flag).split()])


@pytest.mark.parametrize("join", [lambda name, value: [name, value], lambda name, value: [f"{name}={value}"]])
def test_merged_flags_are_taken_out_in_both_spellings(join: object) -> None:
    assert callable(join)
    values = {"config_yaml": "a: b=c", "log_format": "%v", "service_node": "n", "service_cluster": "c"}
    arguments = [part for name, value in values.items() for part in join(f"--{name.replace('_', '-')}", value)]
    assert Flags.parse(["-l", "debug", *arguments, "--concurrency", "2"]) == Flags(
        **values, rest=("-l", "debug", "--concurrency", "2")
    )


def test_a_merged_flag_without_its_value_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="its value is missing"):
        Flags.parse(["--config-yaml"])


@pytest.mark.parametrize("end", ["--", "--ignore_rest"])
def test_nothing_may_end_the_flags_before_the_agents_own(end: str) -> None:
    """Envoy would ignore the following flags, including the restart epoch and the base id."""
    with pytest.raises(UsageError):
        Flags.parse([end, "x"])


def launched(text: str = "{}", extra: str | None = None, flags: Flags | None = None, drain_time: float = 45.0) -> str:
    configuration = Configuration(text, "x.yaml", extra)
    return " ".join(Envoy(flags or Flags(), drain_time).launch(NAMES, COPY, extra, 7, configuration))


def test_an_epoch_is_restart_epoch_1_of_its_own_base_id_and_terminates_its_parent_at_once() -> None:
    line = launched()
    assert line.startswith("-c /dev/fd/31 ")
    for part in (
        "--restart-epoch 1", "--base-id 12", "--socket-path /run/7/hr", "--socket-mode 600", "--drain-time-s 45",
        "--parent-shutdown-time-s 0", f"--log-format [epoch 7] {DEFAULT_LOG_FORMAT}",
    ):  # fmt: skip
        assert part in line


@pytest.mark.parametrize("given", [("-l", "debug"), ("--log-level", "info"), ("--log-level=off",)])
def test_the_operator_chooses_how_much_a_proxy_logs(given: tuple[str, ...]) -> None:
    line = launched(flags=Flags.parse(given))
    assert " ".join(given) in line
    assert "warning" not in line


@pytest.mark.parametrize("given", [(), ("--component-log-level", "upstream:debug"), ("--concurrency", "2")])
def test_a_proxy_logs_warnings_unless_told_otherwise(given: tuple[str, ...]) -> None:
    assert "--log-level warning" in launched(flags=Flags.parse(given))


def test_a_proxy_logs_json_where_the_agent_does_and_nobody_chose_a_format() -> None:
    def logged(flags: Flags, text: str = "{}") -> list[str]:
        return Envoy(flags, 1.0, logs_json=True).launch(NAMES, COPY, None, 7, Configuration(text, "x.yaml"))

    line = json.loads(logged(Flags())[-1].replace("%t", "1"))
    assert (line["body"], line["attributes"]["epoch"]) == ("%j", 7)
    assert logged(Flags(log_format="%v"))[-1] == "[epoch 7] %v"
    named = "application_log_config: {log_format: {text_format: '%v'}}"
    assert "--log-format" not in logged(Flags(), named)


def test_datagrams_are_forwarded_for_a_while() -> None:
    udp = (
        "static_resources: {listeners: [{address: {socket_address: {protocol: UDP, address: 1.1.1.1, port_value: 1}}}]}"
    )
    line = Envoy(Flags(), 45.0).launch(NAMES, COPY, None, 7, Configuration(udp, "x.yaml"), UDP_OVERLAP)
    assert "--parent-shutdown-time-s 4" in " ".join(line)
    assert "--parent-shutdown-time-s 0" in launched(udp)


def test_a_drain_takes_at_least_a_second() -> None:
    assert "--drain-time-s 1 " in launched(drain_time=0.2)


@pytest.mark.parametrize(
    ("text", "flags", "wanted", "unwanted"),
    [
        ("{}", Flags(), ["--service-node agent", "--service-cluster agent"], []),
        ("node: {id: a, cluster: b}", Flags(), [], ["--service-node", "--service-cluster"]),
        ("node: {id: a}", Flags(), ["--service-cluster agent"], ["--service-node"]),
        ("node: {cluster: b}", Flags(), ["--service-node agent"], ["--service-cluster"]),
        ("node: {id: a}", Flags(service_node="mine"), ["--service-node mine"], []),
        ("{}", Flags(service_cluster="mine"), ["--service-cluster mine", "--service-node agent"], []),
    ],
)
def test_the_node_is_given_only_where_the_operator_has_none(
    text: str, flags: Flags, wanted: list[str], unwanted: list[str]
) -> None:
    line = launched(text, flags=flags)
    assert all(part in line for part in wanted)
    assert not any(part in line for part in unwanted)


def test_a_log_format_of_the_file_excludes_the_flag() -> None:
    text = "application_log_config: {log_format: {text_format: x}}"
    assert "--log-format" not in launched(text, flags=Flags(log_format="%v"))
    assert "--log-format" not in launched(extra=text)
    assert "--log-format [epoch 7] %v" in launched(flags=Flags(log_format="%v"))


def test_a_validation_touches_neither_shared_memory_nor_sockets() -> None:
    configuration = Configuration("{}", "x.yaml", "a: 1")
    arguments = Envoy(Flags(rest=("-l", "debug")), 1.0).validate(COPY, "a: 1", configuration)
    assert arguments[-2:] == ["--mode", "validate"]
    assert "--config-yaml" in arguments
    assert "debug" in arguments
    assert not {"--base-id", "--restart-epoch", "--socket-path"} & set(arguments)


# Envoy's error messages

LISTENER = """
static_resources:
  listeners:
  - name: a
    address: {socket_address: {address: 127.0.0.1, port_value: %s}}
    filter_chains:
    - %s
"""
TLS = """transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]
"""
MANAGER = """filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters:
          - name: r
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            validate_clusters: true
            virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: nowhere}}]}]
"""
SECRET = "BEGIN PRIVATE KEY of great value"
INLINE = TLS.replace("filename: %s", f"inline_string: '{SECRET}'")
UNKNOWN_TYPE = INLINE.replace("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "no.such.Type")


def complained(text: str, *more: str) -> str:
    copy = memory(text.encode())
    try:
        code, output = run(["-c", f"/dev/fd/{copy}", "--mode", "validate", *more], descriptors=(copy,))
    finally:
        os.close(copy)
    assert code != 0
    return ENVOY.complaint(output, {1000: "/certs/tls.crt", 1001: "/certs/tls.key", copy: "/etc/envoy.yaml"}).text


def as_json(text: str) -> str:
    return yaml_nodes.write_json(yaml_nodes.read(text, "x.yaml"), from_json=False)


@wants_envoy
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense: 1", "no such field: 'nonsense'"),
        (LISTENER % (0, MANAGER), "unknown cluster 'nowhere'"),
        (
            LISTENER % (0, "filters: [{name: x, typed_config: {'@type': type.googleapis.com/no.such.Type}}]"),
            "no.such.Type",
        ),
        (LISTENER % (0, TLS % ("/no/chain.pem", "/no/key.pem")), "/no/key.pem"),
        (LISTENER % (0, TLS % ("/dev/fd/1000", "/dev/fd/1001")), "/certs/tls.key"),
        (LISTENER % (99999, "filters: []"), "less than or equal to 65535"),
        ('{"a": [', "JSON"),
    ],
    ids=["unknown field", "unknown cluster", "unknown type", "no such file", "no descriptor", "constraint", "no JSON"],
)
def test_a_complaint_is_one_line_that_names_what_is_wrong(text: str, said: str) -> None:
    line = complained(text if text.startswith("{") else as_json(text))
    assert said in line
    assert "\n" not in line
    assert "/dev/fd/" not in line
    assert "error initializing" not in line


@wants_envoy
@pytest.mark.parametrize(
    "text",
    [
        LISTENER % (99999, INLINE),
        LISTENER % (0, UNKNOWN_TYPE),
    ],
    ids=["constraint", "unknown type"],
)
def test_a_complaint_never_repeats_the_secrets_of_the_file(text: str) -> None:
    """It is logged, and `/healthz/ready` shows it."""
    assert SECRET not in complained(as_json(text))


@wants_envoy
def test_a_complaint_of_a_rehearsal_is_what_a_start_reports() -> None:
    text = as_json((LISTENER % (4430, "filters: []")).replace("127.0.0.1", "192.0.2.1"))  # TEST-NET-1, RFC 5737
    configuration = ENVOY.configuration(text, "/etc/envoy.yaml", None, {})
    copy = memory(text.encode())
    try:
        code, output = run(ENVOY.rehearse(copy, None, configuration), descriptors=(copy,))
    finally:
        os.close(copy)
    assert code != 0
    assert ENVOY.complaint(output, {copy: "/etc/envoy.yaml"}) == Complaint(
        "cannot bind '192.0.2.1:4430': Cannot assign requested address"
    )


@wants_envoy
def test_a_flag_that_envoy_does_not_know_is_named() -> None:
    assert "--bogus" in complained("{}", "--bogus", "1")


@wants_envoy
def test_a_complaint_in_another_format_is_understood() -> None:
    text = "application_log_config: {log_format: {text_format: '%l|%v'}}\n" + LISTENER % (0, MANAGER)
    assert "unknown cluster 'nowhere'" in complained(as_json(text))


@pytest.mark.parametrize(("output", "said"), [("", "it printed no message"), ("a\n\n b  c \n\n", "b c")])
def test_an_output_that_is_not_envoys_is_its_last_line(output: str, said: str) -> None:
    assert ENVOY.complaint(output, {}) == Complaint(said)


def test_a_complaint_contains_the_files_it_names() -> None:
    output = "it cannot use /dev/fd/7 with /dev/fd/70, nor /dev/fd/8"
    found = ENVOY.complaint(output, {7: "/certs/tls.crt", 70: "/certs/tls.key", 9: "/certs/other"})
    assert found.text == "it cannot use /certs/tls.crt with /certs/tls.key, nor /dev/fd/8"
    assert found.paths == {"/certs/tls.crt", "/certs/tls.key"}


@pytest.mark.parametrize(
    ("drains", "rest", "expected"),
    [
        (False, (), "--drain-time-s 45"),
        (True, (), "--drain-time-s 600 --drain-strategy immediate"),
        (True, ("--drain-strategy", "gradual"), "--drain-time-s 600"),
    ],
)
def test_where_a_push_drains_its_deadline_is_envoys_drain_time(
    drains: bool, rest: tuple[str, ...], expected: str
) -> None:
    envoy = Envoy(Flags(rest=rest), 45.0, push=PushMode(drains=True), push_drain=600.0)
    arguments = envoy.launch(NAMES, COPY, None, 7, envoy.configuration("{}", "x.yaml"), drains=drains)
    assert f"{expected} --parent-shutdown-time-s" in " ".join(arguments)


def test_only_a_configuration_for_pushes_has_files_to_push() -> None:
    context = "{tls_certificates: [{certificate_chain: {filename: /c/a}}]}"
    text = f"static_resources: {{clusters: [{{common_tls_context: {context}}}]}}"
    for push, expected in ((None, frozenset()), (PushMode(drains=False), frozenset({"/c/a"}))):
        configuration = Envoy(Flags(), 45.0, push=push).configuration(text, "x.yaml")
        assert configuration.pushable_files == expected
