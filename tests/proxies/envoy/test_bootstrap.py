import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.pki import Authority
from tests.proxies.envoy.envoys import memory, run, wants_envoy
from tests.system.bootstrap import Bootstrap as Sample
from tests.system.bootstrap import Secured

SNAKE = """
static_resources:
  secrets:
  - name: s
    tls_certificate:
      certificate_chain: {filename: /certs/a.pem}
      private_key: {filename: /certs/a.key}
      password: {filename: /certs/password}
  - name: v
    validation_context: {trusted_ca: {filename: /certs/ca.pem}}
"""
CAMEL = """
staticResources:
  secrets:
  - name: s
    tlsCertificate:
      certificateChain: {filename: /certs/a.pem}
      privateKey: {filename: /certs/a.key}
      password: {filename: /certs/password}
  - name: v
    validationContext: {trustedCa: {filename: /certs/ca.pem}}
"""
REFERENCES = [
    Reference("/certs/a.pem", Role.CHAIN, "/certs/a.pem"),
    Reference("/certs/a.key", Role.KEY, "/certs/a.pem"),
    Reference("/certs/password", Role.OTHER, "/certs/a.pem"),
    Reference("/certs/ca.pem", Role.BUNDLE, "/certs/ca.pem"),
]


def configured(text: str, extra: str | None = None, name: str = "envoy.yaml") -> Configuration:
    return Configuration(text, name, extra)


def filled(text: str, **descriptors: int) -> Any:  # noqa: ANN401
    """Return the private copy of epoch 7 as a tree."""
    paths = {f"/certs/{name}": number for name, number in descriptors.items()}
    main, _ = configured(text).copies(paths).fill("/run/7", 7, paths)
    return yaml.safe_load(main)


@pytest.mark.parametrize("text", [SNAKE, CAMEL], ids=["snake_case", "camelCase"])
@pytest.mark.parametrize("as_json", [False, True])
def test_files_are_found_with_what_they_are(text: str, as_json: bool) -> None:
    if as_json:
        text = json.dumps(yaml.safe_load(text), indent="\t")
    assert set(configured(text, name="e.json" if as_json else "e.yaml").references) == set(REFERENCES)


def test_files_of_a_pair_or_a_bundle_belong_to_its_group() -> None:
    """OCSP responses, revocation lists and files of private-key providers change together with their certificate."""
    found = configured(
        """
static_resources:
  secrets:
  - tls_certificate:
      certificate_chain: {filename: /certs/a.pem}
      private_key_provider:
        provider_name: cryptomb
        typed_config:
          private_key: {filename: /certs/a.key}
      ocspStaple: {filename: /certs/a.ocsp}
      signed_certificate_timestamp: [{filename: /certs/a.sct}]
  - validation_context:
      trusted_ca: {filename: /certs/ca.pem}
      crl: {filename: /certs/ca.crl}
  - validation_context: {crl: {filename: /certs/alone.crl}}
  - tls_certificate: {pkcs12: {filename: /certs/b.p12}}
"""
    ).references
    assert {each.path: each.group for each in found} == {
        "/certs/a.pem": "/certs/a.pem",
        "/certs/a.key": "/certs/a.pem",
        "/certs/a.ocsp": "/certs/a.pem",
        "/certs/a.sct": "/certs/a.pem",
        "/certs/ca.pem": "/certs/ca.pem",
        "/certs/ca.crl": "/certs/ca.pem",
        "/certs/alone.crl": "/certs/alone.crl",
        "/certs/b.p12": "/certs/b.p12",
    }
    assert {each.path for each in found if each.role is Role.KEY} == {"/certs/a.key"}


def test_files_of_the_extra_document_are_found_too() -> None:
    assert set(configured("{}", SNAKE).references) == set(REFERENCES)


def test_a_file_that_is_named_twice_or_by_an_alias_is_listed_once() -> None:
    text = "a: &x {trusted_ca: {filename: /certs/ca.pem}}\nb: *x\nc: {trusted_ca: {filename: /certs/ca.pem}}"
    assert configured(text).references == [Reference("/certs/ca.pem", Role.BUNDLE, "/certs/ca.pem")]


def test_files_in_a_list_are_found() -> None:
    """session_ticket_keys is a list of data sources; without shared keys no session survives a rotation."""
    text = "x: {session_ticket_keys: {keys: [{filename: /certs/one}, {filename: /certs/two}]}}"
    assert {reference.path for reference in configured(text).references} == {"/certs/one", "/certs/two"}


def test_inline_secrets_are_no_files() -> None:
    assert not configured("a: {private_key: {inline_string: x}, certificate_chain: {inline_bytes: eA==}}").references


def test_the_copy_names_descriptors_in_the_place_of_files() -> None:
    text = SNAKE + "  - name: other\n    generic_secret: {secret: {filename: /elsewhere}}\n"
    tree = filled(text, **{"a.pem": 31, "a.key": 32, "ca.pem": 33})
    tls, validation, other = tree["static_resources"]["secrets"]
    assert tls["tls_certificate"]["certificate_chain"] == {"filename": "/dev/fd/31"}
    assert tls["tls_certificate"]["private_key"] == {"filename": "/dev/fd/32"}
    assert tls["tls_certificate"]["password"] == {"filename": "/certs/password"}
    assert validation["validation_context"]["trusted_ca"] == {"filename": "/dev/fd/33"}
    assert other["generic_secret"]["secret"] == {"filename": "/elsewhere"}


def test_more_than_ten_files_are_not_mixed_up() -> None:
    names = [f"f{number}" for number in range(25)]
    text = yaml.safe_dump({name: {"trusted_ca": {"filename": f"/certs/{name}"}} for name in names})
    tree = filled(text, **{name: 100 + number for number, name in enumerate(names)})
    assert [tree[name]["trusted_ca"]["filename"] for name in names] == [f"/dev/fd/{100 + n}" for n in range(25)]


# Listeners


def listeners(text: str) -> list[tuple[str, bool, bool]]:
    found = configured(f"static_resources: {{listeners: [{text}]}}").listeners
    return [(each.place.address, each.reuse_port, each.dual_stack) for each in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{address: {socket_address: {address: 127.0.0.1, port_value: 80}}}", ("tcp://127.0.0.1:80", True, False)),
        ("{address: {socketAddress: {address: '::', portValue: 80}}}", ("tcp://[::]:80", True, False)),
        (
            "{address: {socket_address: {address: '::', port_value: 80, ipv4_compat: true}}, enable_reuse_port: false}",
            ("tcp://[::]:80", False, True),
        ),
        (
            "{address: {socket_address: {protocol: UDP, address: 1.2.3.4, port_value: '53'}}}",
            ("udp://1.2.3.4:53", True, False),
        ),
        ("{address: {pipe: {path: /run/x.sock, mode: 438}}}", ("unix:///run/x.sock", True, False)),
        ("{address: {pipe: {path: '@name'}}}", ("unix://@name", True, False)),
    ],
)
def test_a_listener_is_found_as_the_protocol_spells_it(text: str, found: tuple[str, bool, bool]) -> None:
    assert listeners(text) == [found]


@pytest.mark.parametrize("host", ["::0", "0:0:0:0:0:0:0:0", "0000::"])
def test_an_address_of_many_spellings_is_one_place(host: str) -> None:
    """Envoy requests `tcp://[::]:80` for every spelling in the configuration."""
    assert listeners(f"{{address: {{socket_address: {{address: '{host}', port_value: 80}}}}}}")[0][0] == "tcp://[::]:80"


def test_each_additional_address_is_a_listener_of_its_own() -> None:
    more = "additional_addresses: [{address: {socket_address: {address: 127.0.0.2, port_value: 80}}}]"
    assert [each[0] for each in listeners(f"{{address: {{pipe: {{path: /x}}}}, {more}}}")] == [
        "unix:///x",
        "tcp://127.0.0.2:80",
    ]


@pytest.mark.parametrize("text", ["bind_to_port: false", "bindToPort: no", "internal_listener: {}"])
def test_a_listener_that_does_not_bind_is_none(text: str) -> None:
    address = "" if "internal" in text else "address: {socket_address: {address: 127.0.0.1, port_value: 80}}, "
    assert not listeners(f"{{{address}{text}}}")


def test_a_port_that_the_kernel_chooses_is_known_as_such() -> None:
    text = "static_resources: {listeners: [{address: {socket_address: {address: 127.0.0.1, port_value: %s}}}]}"
    assert configured(text % 0).listeners[0].place.any_port
    assert not configured(text % 80).listeners[0].place.any_port
    assert (
        not configured("static_resources: {listeners: [{address: {pipe: {path: '/x:0'}}}]}").listeners[0].place.any_port
    )


def test_a_network_namespace_belongs_to_the_place() -> None:
    inner = "{address: 127.0.0.1, port_value: 80, network_namespace_filepath: /run/netns/a}"
    found = configured(f"static_resources: {{listeners: [{{address: {{socket_address: {inner}}}}}]}}").listeners
    assert found[0].place == ListenAddress("tcp://127.0.0.1:80", "/run/netns/a")


def test_datagrams_and_dynamic_listeners_are_noticed() -> None:
    udp = "static_resources: {listeners: [{address: {socket_address: {protocol: UDP, address: ::1, port_value: 1}}}]}"
    assert configured("{}", udp.replace("::1", "'::1'")).has_udp
    assert not configured("{}").has_udp
    assert configured("dynamicResources: {ldsConfig: {ads: {}}}").has_dynamic_listeners
    assert not configured("dynamic_resources: {cds_config: {ads: {}}}").has_dynamic_listeners


# The admin interface


ADMIN = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}, allow_paths: [{exact: /ready}]}"


def test_the_admin_interface_moves_to_the_epochs_own_socket_without_restrictions() -> None:
    tree = filled(ADMIN)
    assert tree["admin"] == {"address": {"pipe": {"path": "/run/7/admin", "mode": 0o600}}}
    console = configured(ADMIN).admin_address
    assert console is not None
    assert console.address == "tcp://127.0.0.1:9901"
    assert console.allowed is not None


def test_other_settings_of_the_admin_interface_are_kept() -> None:
    tree = filled("admin: {profilePath: /tmp/p, address: {pipe: {path: /x}}}")
    assert tree["admin"]["profilePath"] == "/tmp/p"


def test_the_admin_address_of_the_extra_document_has_precedence_and_the_private_one_stays() -> None:
    extra = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 7}}}"
    both = configured(ADMIN, extra)
    assert both.admin_address is not None
    assert both.admin_address.address == "tcp://127.0.0.1:7"
    _, second = both.copies([]).fill("/run/7", 7, {})
    assert second is not None
    assert yaml.safe_load(second) == {"admin": {}}


@pytest.mark.parametrize("address_first", [True, False])
def test_paths_that_are_allowed_in_one_document_bind_the_address_of_the_other(address_first: bool) -> None:
    address = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 7}}}"
    allow = "admin: {allow_paths: [{exact: /ready}]}"
    console = configured(*((address, allow) if address_first else (allow, address))).admin_address
    assert console is not None
    assert console.allowed is not None


def test_a_bootstrap_without_an_admin_interface_names_none() -> None:
    assert configured("{}").admin_address is None


# The gate


@pytest.mark.parametrize("text", ["{}", "", "static_resources: null", "staticResources: {clusters: [{name: a}]}"])
def test_the_gate_is_added_where_it_belongs(text: str) -> None:
    tree = filled(text)
    resources = tree.get("static_resources") or tree["staticResources"]
    assert resources["clusters"][-1]["name"] == resources["listeners"][-1]["name"] == "agent_gate"
    pipe = resources["clusters"][-1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert pipe == {"pipe": {"path": "/run/7/gate"}}
    assert resources["listeners"][-1]["bind_to_port"] is False


def test_the_operators_file_is_read_once_and_filled_for_each_epoch() -> None:
    copies = configured(SNAKE).copies(["/certs/a.pem"])
    one, two = copies.fill("/run/1", 1, {"/certs/a.pem": 5}), copies.fill("/run/2", 2, {"/certs/a.pem": 9})
    assert "/dev/fd/5" in one[0]
    assert "/run/1/gate" in one[0]
    assert "/dev/fd/9" in two[0]
    assert "/run/2/gate" in two[0]
    assert "__agent" not in one[0] + two[0]


QUOTED, BACKSLASHED = '/run/"x"/7', "/run/\\x/7"


@pytest.mark.parametrize("directory", ["/run/a b/7", "/run/a: b/7", "/run/#x/7", "/run/é/7", QUOTED, BACKSLASHED])
def test_whatever_the_run_directory_is_called_the_copy_is_yaml_and_names_it(directory: str) -> None:
    main, _ = configured("{}").copies([]).fill(directory, 7, {})
    assert yaml.safe_load(main)["admin"]["address"]["pipe"]["path"] == f"{directory}/admin"


# The log


def test_lines_of_text_begin_with_the_epoch() -> None:
    tree = filled("application_log_config: {log_format: {text_format: '%v'}}")
    assert tree["application_log_config"]["log_format"]["text_format"] == "[epoch 7] %v"
    assert configured("applicationLogConfig: {logFormat: {textFormat: x}}").has_log_format
    assert not configured("{}").has_log_format


def test_lines_of_json_carry_the_epoch() -> None:
    tree = filled("application_log_config: {log_format: {json_format: {Message: '%j'}}}")
    assert tree["application_log_config"]["log_format"]["json_format"] == {"Message": "%j", "epoch": "7"}


def test_an_epoch_that_the_operator_names_himself_stays() -> None:
    tree = filled("application_log_config: {log_format: {json_format: {epoch: mine}}}")
    assert tree["application_log_config"]["log_format"]["json_format"] == {"epoch": "mine"}


# The node and the name


def test_either_document_can_set_the_node() -> None:
    assert configured("node: {id: a}", "node: {cluster: b}").node == ("a", "b")
    assert configured("{}").node == (None, None)


@pytest.mark.parametrize("name", ["envoy.pb_text", "envoy", "envoy.conf"])
def test_a_file_of_another_kind_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(BadInput, match=r"the agent reads .yaml, .yml and .json"):
        configured("{}", name=name)


def test_each_document_is_named_when_it_is_bad() -> None:
    with pytest.raises(BadInput, match=r"cannot read envoy\.yaml: line 2"):
        configured("a: [\n")
    with pytest.raises(BadInput, match=r"cannot read --config-yaml: line 2"):
        configured("{}", "a: [\n")


# The real Envoy and the copies

VARIED = {
    "empty": "",
    "anchors": """
static_resources:
  listeners:
  - &l
    name: one
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    per_connection_buffer_limit_bytes: 1024
    filter_chains: [&c {filters: []}]
  - name: two
    address: {pipe: {path: "@agent-test-two"}}
    filter_chains: [*c]
""",
    "camel": "staticResources: {clusters: [{name: a, connectTimeout: 0.25s, type: STATIC}]}\nadmin: {profilePath: x}",
    "text log": 'application_log_config: {log_format: {text_format: "[%l] %v"}}',
    "json log": "application_log_config: {log_format: {json_format: {Message: '%j', Level: '%l'}}}",
    "quoted": "node: {id: '0777', cluster: 'yes', metadata: {a: 'on', b: 1e3, c: 0x10, d: '1e3', e: ~, f: [1, '2']}}",
    "own admin": ADMIN,
    "runtime": "layered_runtime: {layers: [{name: a, static_layer: {re2.max_program_size.error_level: 1000}}]}",
    "stats": "stats_config: {stats_matcher: {reject_all: true}}\nstats_flush_interval: 1s",
}


def accepts(configuration: Configuration, directory: Path, files: Mapping[str, int] | None = None) -> None:
    """Fail unless Envoy can use the private copy."""
    files = files or {}
    main, extra = configuration.copies(files).fill(str(directory), 1, files, as_json=True)
    copy = memory(main.encode())
    try:
        arguments = Envoy(Flags(), 1.0).validate(copy, extra, configuration)
        code, output = run(arguments, descriptors=(copy, *files.values()))
    finally:
        os.close(copy)
    assert code == 0, output


@wants_envoy
@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_envoy_takes_the_copy(name: str, suffix: str, tmp_path: Path) -> None:
    text = VARIED[name]
    if suffix == "json":
        text = json.dumps(yaml.safe_load(text) or {}, indent="\t")
    accepts(configured(text, name=f"x.{suffix}"), tmp_path)


@wants_envoy
def test_envoy_takes_certificates_from_descriptors_with_the_files_gone(tmp_path: Path) -> None:
    leaf = Authority.create("ca").issue(["a.test"])
    secured = [Secured(Path("/gone/tls.crt"), Path("/gone/tls.key"))]
    files = {"/gone/tls.crt": memory(leaf.chain_pem), "/gone/tls.key": memory(leaf.key_pem)}
    try:
        accepts(configured(Sample(0, 0, secured).text()), tmp_path, files)
    finally:
        for descriptor in files.values():
            os.close(descriptor)


@wants_envoy
def test_envoy_merges_the_extra_copy(tmp_path: Path) -> None:
    accepts(configured(ADMIN, ADMIN + "\nnode: {id: x}"), tmp_path)
