"""One document: the files and addresses that it names, and the copy in which they are descriptors."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from yaml.nodes import MappingNode, Node

from agent.certificates.findings import Unusable
from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy import yaml_nodes
from agent.proxies.envoy.document import DIRECTORY, NUMBER, Document, ResourceFile, is_protobuf, place_of
from agent.proxies.interface import StaticListener
from tests.pki import Authority

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


class Plain(Document):
    """A document whose listeners are under `listeners`, and whose copy begins with a change of its own."""

    def __init__(self, text: str, name: str = "d.yaml") -> None:
        self.looked = 0
        super().__init__(text, name, is_json=name.endswith(".json"))

    def _look_through(self, root: MappingNode) -> None:
        self.looked += isinstance(root, MappingNode)

    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        return yaml_nodes.items(yaml_nodes.get(root, "listeners"))

    def _change(self, root: MappingNode) -> None:
        if yaml_nodes.get(root, "own") is not None:
            yaml_nodes.put(root, "own", yaml_nodes.compose(f"{DIRECTORY}/x {NUMBER}"))


def named(text: str) -> list[Reference]:
    return Plain(text).references


def loaded(text: str) -> Any:  # noqa: ANN401  # any document
    return yaml.safe_load(text)


# Files


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("certificate_chain", Role.CHAIN),
        ("certificateChain", Role.CHAIN),
        ("private_key", Role.KEY),
        ("privateKey", Role.KEY),
        ("trusted_ca", Role.BUNDLE),
        ("trustedCa", Role.BUNDLE),
        ("crl", Role.OTHER),
        ("ocsp_staple", Role.OTHER),
        ("CertificateChain", Role.OTHER),
        ("anything", Role.OTHER),
    ],
)
@pytest.mark.parametrize("form", ["{{{}: {{filename: /f}}}}", "[1, {{x: {{{}: {{filename: /f}}}}}}]"])
def test_a_file_has_the_role_of_its_key_wherever_it_is(key: str, role: Role, form: str) -> None:
    assert named("a: " + form.format(key)) == [Reference("/f", role, "/f")]


def test_the_files_beside_a_chain_and_below_it_are_of_its_group() -> None:
    text = """
a: {certificate_chain: {filename: /c}, private_key: {filename: /k}, deep: [{ocsp: {filename: /o}}]}
b: {trusted_ca: {filename: /ca}, crl: {filename: /crl}}
c: {private_key: {filename: /alone}}
"""
    assert {each.path: each.group for each in named(text)} == {
        "/c": "/c",
        "/k": "/c",
        "/o": "/c",
        "/ca": "/ca",
        "/crl": "/ca",
        "/alone": "/alone",
    }


def test_a_group_within_another_is_one_of_its_own_only_for_what_the_outer_does_not_have() -> None:
    text = "a: {trusted_ca: {filename: /ca}, inner: {certificate_chain: {filename: /c}, private_key: {filename: /k}}}"
    assert {each.path: each.group for each in named(text)} == {"/ca": "/ca", "/c": "/ca", "/k": "/ca"}


def test_a_chain_names_the_group_where_there_is_a_bundle_too() -> None:
    text = "a: {trusted_ca: {filename: /ca}, certificate_chain: {filename: /c}, private_key: {filename: /k}}"
    assert {each.group for each in named(text)} == {"/c"}


def test_each_element_of_a_list_is_a_file() -> None:
    text = "tls: {private_key: [{filename: /1}, {inline_string: x}, {filename: /2}], passwords: [[{filename: /3}]]}"
    assert [each.path for each in named(text)] == ["/1", "/2"]


def test_a_file_that_is_named_twice_in_one_role_is_one_reference() -> None:
    assert named("a: {x: {filename: /f}, y: {filename: /f}}") == [Reference("/f", Role.OTHER, "/f")]
    assert len(named("a: {private_key: {filename: /f}, y: {filename: /f}}")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a: {filename: [/f]}",
        "a: {filename: {b: /f}}",
        "a: {filename: null}",
        "a: {filename: }",
        "a: {file_name: /f}",
        "filename: /f",
        "a: /f",
        "",
    ],
)
def test_what_is_no_file_name_is_no_reference(text: str) -> None:
    assert named(text) == []


def test_a_file_name_may_be_anything_that_is_written() -> None:
    assert [each.path for each in named("a: {filename: 0777}\nb: {filename: yes}\nc: {filename: ''}")] == [
        "0777",
        "yes",
        "",
    ]


@pytest.mark.parametrize("text", ["a:\n  ? [x]\n  : 1", "a:\n  ? {b: c}\n  : 1"])
def test_a_key_that_is_no_word_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(BadInput, match=r"d\.yaml: line 2\b.*key"):
        Plain(text)


@pytest.mark.parametrize("word", ["__agent_directory__", "__agent_epoch__", "__agent_file_0__", "__agent_file_99__"])
def test_a_word_that_stands_for_a_value_of_the_agent_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match=rf"d\.yaml: .*{word}"):
        Plain(f"a: 'x{word}y'")


@pytest.mark.parametrize("word", ["__agent_directory_", "_agent_epoch__", "__agent_file_x__", "__AGENT_EPOCH__"])
def test_a_word_that_resembles_one_is_kept(word: str) -> None:
    assert word in Plain(f"a: {word}").template([]).fill("/run", 1, {})


# Sources of resources

OLDER = ("config_source", "lds_config", "cds_config", "sds_config", "eds_config", "rtds_config", "edsConfig")


@pytest.mark.parametrize(
    ("text", "sources", "protobuf"),
    [
        ("a: {path_config_source: {path: /r.yaml}}", ["/r.yaml"], []),
        ("a: {pathConfigSource: {path: /r.json}}", ["/r.json"], []),
        ("a: [{path_config_source: {path: /2}}, {path_config_source: {path: /1}}]", ["/2", "/1"], []),
        ("a: {path_config_source: {path: /r}}\nb: {path_config_source: {path: /r}}", ["/r"], []),
        ("a: {path_config_source: {path: /r.pb}}", [], ["/r.pb"]),
        ("a: {path_config_source: {path: /r.pb_text}}", [], ["/r.pb_text"]),
        ("a: {path_config_source: {path: }}", [], []),
        ("a: {path_config_source: /r}", [], []),
        ("a: {path: /r}", [], []),
        *((f"a: {{{key}: {{path: /r, resource_api_version: V3}}}}", ["/r"], []) for key in OLDER),
        ("a: {lds_config: {path: /r}}", [], []),
        ("a: {other: {path: /r, resource_api_version: V3}}", [], []),
    ],
)  # fmt: skip
def test_a_resource_file_is_a_source(text: str, sources: list[str], protobuf: list[str]) -> None:
    found = Plain(text)
    assert (found.sources, found.protobuf_sources) == (sources, protobuf)


@pytest.mark.parametrize(
    ("path", "answer"), [("/a.pb", True), ("/a.pb_text", True), ("/pb", False), ("/a.pb.yaml", False), ("/a.PB", False)]
)
def test_protobuf_has_its_own_suffixes(path: str, answer: bool) -> None:
    assert is_protobuf(path) is answer


def test_a_secret_has_the_file_of_its_source() -> None:
    text = """
- {name: newer, sds_config: {path_config_source: {path: /new}}}
- {name: older, sds_config: {path: /old}}
- {name: fetched, sds_config: {ads: {}}}
- {sds_config: {path: /nameless}}
- {name: [x], sds_config: {path: /x}}
- {name: other, lds_config: {path: /x}}
"""
    assert Plain(f"a:{text}").secret_sources == {"newer": "/new", "older": "/old"}


def test_control_planes_are_named_once_each_in_order() -> None:
    text = """
ads_config:
  cluster_names: [rest, 7, null, [x]]
  grpc_services: [{envoy_grpc: {cluster_name: envoy}}, {google_grpc: {target_uri: 'xds:443'}}, {envoy_grpc: {}}]
x: {apiConfigSource: {clusterNames: [rest, more]}}
y: {other_source: {cluster_names: [stranger]}}
"""
    assert list(Plain(text).control_planes) == ["rest", "7", "envoy", "xds:443", "more"]


# Listeners


def listeners(text: str) -> list[StaticListener]:
    return Plain(f"listeners: {text}").listeners


def test_a_listener_has_its_address_and_shares_its_port_unless_it_says_otherwise() -> None:
    address = "address: {socket_address: {address: 127.0.0.1, port_value: 80}}"
    place = ListenAddress("tcp://127.0.0.1:80")
    assert listeners(f"[{{{address}}}]") == [StaticListener(place, True, False)]
    assert listeners(f"[{{{address}, enable_reuse_port: false}}]") == [StaticListener(place, False, False)]
    assert listeners(f"[{{{address}, enableReusePort: yes}}]") == [StaticListener(place, True, False)]


def test_a_listener_that_binds_no_port_has_no_address() -> None:
    address = "address: {socket_address: {address: 127.0.0.1, port_value: 80}}"
    assert listeners(f"[{{{address}, bind_to_port: false}}, {{name: nothing}}, word]") == []
    assert len(listeners(f"[{{{address}, bind_to_port: true}}]")) == 1


def test_more_addresses_come_behind_the_first_each_with_its_own_stack() -> None:
    first = "{socket_address: {address: '::', port_value: 80, ipv4_compat: true}}"
    second = "{address: {socket_address: {address: 10.0.0.1, port_value: 81}}}"
    more = f"[{second}, {{address: {{pipe: {{path: /s}}}}}}, {{other: 1}}]"
    found = listeners(f"[{{enable_reuse_port: off, address: {first}, additional_addresses: {more}}}]")
    assert found == [
        StaticListener(ListenAddress("tcp://[::]:80"), False, True),
        StaticListener(ListenAddress("tcp://10.0.0.1:81"), False, False),
        StaticListener(ListenAddress("unix:///s"), False, False),
    ]


@pytest.mark.parametrize(
    ("address", "spelled"),
    [
        ("{pipe: {path: /run/s}}", "unix:///run/s"),
        ("{pipe: {path: '@abstract'}}", "unix://@abstract"),
        ("{pipe: {path: /s}, socket_address: {address: 1.2.3.4, port_value: 5}}", "unix:///s"),
        ("{socket_address: {address: 1.2.3.4, port_value: 5}}", "tcp://1.2.3.4:5"),
        ("{socketAddress: {address: 1.2.3.4, portValue: 5}}", "tcp://1.2.3.4:5"),
        ("{socket_address: {address: 1.2.3.4}}", "tcp://1.2.3.4:0"),
        ("{socket_address: {address: 1.2.3.4, port_value: null}}", "tcp://1.2.3.4:0"),
        ("{socket_address: {address: 1.2.3.4, port_value: 5, protocol: TCP}}", "tcp://1.2.3.4:5"),
        ("{socket_address: {address: 1.2.3.4, port_value: 5, protocol: UDP}}", "udp://1.2.3.4:5"),
        ("{socket_address: {address: 1.2.3.4, port_value: 5, protocol: 1}}", "udp://1.2.3.4:5"),
        ("{socket_address: {address: 1.2.3.4, port_value: 5, protocol: 0}}", "tcp://1.2.3.4:5"),
        ("{socket_address: {address: 1.2.3.4, port_value: 5, protocol: SCTP}}", "tcp://1.2.3.4:5"),
        ("{socket_address: {address: '::0', port_value: 5}}", "tcp://[::]:5"),
        ("{socket_address: {address: '2001:DB8:0:0::1', port_value: 5}}", "tcp://[2001:db8::1]:5"),
        ("{socket_address: {address: '::ffff:127.0.0.1', port_value: 5}}", "tcp://[::ffff:127.0.0.1]:5"),
        ("{socket_address: {address: '::FFFF:7f00:1', port_value: 5}}", "tcp://[::ffff:127.0.0.1]:5"),
        ("{socket_address: {address: name.test, port_value: 5}}", "tcp://name.test:5"),
        ("{socket_address: {address: '', port_value: 5}}", "tcp://:5"),
    ],
)
def test_an_address_has_the_spelling_of_the_hot_restart_protocol(address: str, spelled: str) -> None:
    assert place_of(yaml_nodes.read(address, "x.yaml")) == ListenAddress(spelled)


def test_an_address_in_another_network_namespace_keeps_it() -> None:
    address = "{socket_address: {address: 1.2.3.4, port_value: 5, network_namespace_filepath: /run/netns/a}}"
    assert place_of(yaml_nodes.read(address, "x.yaml")) == ListenAddress("tcp://1.2.3.4:5", "/run/netns/a")


@pytest.mark.parametrize(
    "address",
    ["{}", "{envoy_internal_address: {server_listener_name: x}}", "{socket_address: {port_value: 5}}", "{pipe: {}}"],
)
def test_another_kind_of_address_has_no_place(address: str) -> None:
    assert place_of(yaml_nodes.read(address, "x.yaml")) is None


def test_no_address_has_no_place() -> None:
    assert place_of(None) is None


# Copies


def test_files_in_a_copy_are_descriptors_by_their_paths() -> None:
    text = "a: {filename: /2}\nb: [{filename: /1}, {filename: /unheld}]\nc: {name: /1}\n"
    template = Plain(text).template(["/2", "/1"])
    assert loaded(template.fill("/run", 3, {"/1": 11, "/2": 22})) == {
        "a": {"filename": "/dev/fd/22"},
        "b": [{"filename": "/dev/fd/11"}, {"filename": "/unheld"}],
        "c": {"name": "/1"},
    }


def test_one_template_is_filled_for_each_epoch_with_its_own_values() -> None:
    template = Plain("own: x\na: {filename: /f}").template(["/f"])
    first, second = (template.fill(f"/run/{number}", number, {"/f": 10 + number}) for number in (1, 2))
    assert loaded(first) == {"a": {"filename": "/dev/fd/11"}, "own": "/run/1/x 1"}
    assert loaded(second) == {"a": {"filename": "/dev/fd/12"}, "own": "/run/2/x 2"}


@pytest.mark.parametrize("directory", ['/a "b"', "/back\\slash", "/new\nline", "/ж", "/\\1", "/\ttab"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_directory_may_have_any_name(directory: str, as_json: bool) -> None:
    text = Plain("own: x").template([]).fill(directory, 1, {}, as_json=as_json)
    assert loaded(text) == {"own": f"{directory}/x 1"}
    assert not as_json or json.loads(text) == loaded(text)


def test_a_file_name_that_looks_like_a_number_is_replaced_by_a_text() -> None:
    text = Plain("a: {filename: 0777}").template(["0777"]).fill("/run", 1, {"0777": 5})
    assert loaded(text) == {"a": {"filename": "/dev/fd/5"}}


def test_more_than_ten_files_are_not_confused() -> None:
    paths = [f"/{number}" for number in range(12)]
    text = "a: [" + ", ".join(f"{{filename: {path}}}" for path in paths) + "]"
    filled = Plain(text).template(paths).fill("/run", 1, {path: 100 + int(path[1:]) for path in paths})
    assert loaded(filled)["a"] == [{"filename": f"/dev/fd/{100 + number}"} for number in range(12)]


@pytest.mark.parametrize("key", ["path_config_source", "pathConfigSource"])
def test_a_source_in_a_copy_is_a_descriptor_and_watches_nothing(key: str) -> None:
    text = f"a: {{{key}: {{path: /r, watched_directory: {{path: /}}}}}}"
    filled = Plain(text).template(["/r"]).fill("/run", 1, {"/r": 7})
    assert loaded(filled) == {"a": {key: {"path": "/dev/fd/7"}}}


def test_a_source_that_is_not_held_stays_and_is_watched() -> None:
    text = "a: {path_config_source: {path: /r, watched_directory: {path: /}}}"
    assert loaded(Plain(text).template(["/other"]).fill("/run", 1, {"/other": 7})) == loaded(text)


def test_another_path_that_is_held_is_no_source() -> None:
    text = "a: {access_log: {path: /r}}"
    assert loaded(Plain(text).template(["/r"]).fill("/run", 1, {"/r": 7})) == loaded(text)


def test_the_text_of_a_template_is_made_once_for_each_format() -> None:
    template = Plain("a: 1").template([])
    assert not template.is_made(as_json=True)
    first = template.text(as_json=True)
    assert template.is_made(as_json=True)
    assert not template.is_made(as_json=False)
    assert template.text(as_json=True) is first
    assert json.loads(first) == {"a": 1}
    assert template.text(as_json=False) == "a: 1\n"


def test_a_copy_as_json_has_the_values_that_envoy_reads_in_the_format_it_came_from() -> None:
    assert json.loads(Plain("a: 1e3\nb: 'yes'\nc: yes").template([]).text(as_json=True))["b"] == "yes"
    text = '{"a": 1.50, "a": 2, "b": "1"}'
    assert Plain(text, "d.json").template([]).text(as_json=True) == '{"a": 1.5, "a": 2, "b": "1"}'


def test_the_document_itself_is_looked_through_once() -> None:
    document = Plain("a: 1")
    document.template([]).text(as_json=True)
    assert document.looked == 1


# Files of resources


def resources(*listed: object) -> str:
    return json.dumps({"resources": listed})


@pytest.mark.parametrize("name", ["/r.yaml", "/r.yml"])
def test_a_resource_file_is_yaml_by_its_suffix(name: str) -> None:
    assert ResourceFile("a: {filename: /f}", name).references[0].path == "/f"


@pytest.mark.parametrize("name", ["/r.json", "/r", "/r.txt", "/r.YAML", "/.yaml"])
def test_a_resource_file_is_json_otherwise(name: str) -> None:
    with pytest.raises(BadInput, match=f"cannot read {name}: line 1"):
        ResourceFile("a: {filename: /f}", name)
    assert ResourceFile('{"a": {"filename": "/f"},}', name).references[0].path == "/f"


@pytest.mark.parametrize("text", ["", " ", "\n\t\n"])
def test_an_empty_resource_file_is_one_that_is_being_written(text: str) -> None:
    with pytest.raises(BadInput, match=r"/r\.yaml: it is empty"):
        ResourceFile(text, "/r.yaml")


def test_a_resource_file_without_a_mapping_is_told_what_belongs_there() -> None:
    with pytest.raises(BadInput, match=r"/r\.yaml: .*resources"):
        ResourceFile("[1]", "/r.yaml")


def test_the_listeners_among_its_resources_are_listeners() -> None:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 80}}
    text = resources(
        {"@type": LISTENER, "address": address},
        {"name": "wrapped", "resource": {"@type": LISTENER, "address": {"pipe": {"path": "/s"}}}},
        {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "address": {"pipe": {"path": "/no"}}},
        {"address": {"pipe": {"path": "/untyped"}}},
        7,
    )
    found = ResourceFile(text, "/r.json").listeners
    assert [each.place.address for each in found] == ["tcp://127.0.0.1:80", "unix:///s"]


def test_the_copy_of_a_resource_file_is_the_same_for_every_epoch() -> None:
    template = ResourceFile(resources({"name": "x"}), "/r.json").template([])
    assert template.fill("/run/1", 1, {}, as_json=True) == template.fill("/run/2", 2, {}, as_json=True)
    assert json.loads(template.text(as_json=True)) == {"resources": [{"name": "x"}]}


ONE, OTHER = (Authority.create("ca").issue([f"{name}.test"]) for name in ("one", "other"))


def as_string(data: bytes) -> dict[str, str]:
    return {"inline_string": data.decode()}


def as_bytes(data: bytes) -> dict[str, str]:
    return {"inline_bytes": base64.b64encode(data).decode()}


@pytest.mark.parametrize("inline", [as_string, as_bytes])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pair_within_a_resource_has_to_fit(inline: Callable[[bytes], dict[str, str]], wrapped: bool) -> None:
    def file(chain: bytes, key: bytes) -> str:
        pair = {"certificate_chain": inline(chain), "private_key": inline(key)}
        secret = {"name": "edge", "tls_certificate": pair}
        return resources({"resource": secret} if wrapped else secret)

    ResourceFile(file(ONE.chain_pem, ONE.key_pem), "/r.json")
    with pytest.raises(Unusable, match=r"/r\.json \(edge\)"):
        ResourceFile(file(ONE.chain_pem, OTHER.key_pem), "/r.json")
    with pytest.raises(Unusable, match=r"/r\.json \(edge\)"):
        ResourceFile(file(ONE.key_pem, ONE.key_pem), "/r.json")
    with pytest.raises(Unusable, match=r"/r\.json \(edge\)"):
        ResourceFile(file(b"nothing", ONE.key_pem), "/r.json")


def test_a_pair_of_a_resource_without_a_name_is_named_by_its_file() -> None:
    pair = {"certificate_chain": as_string(ONE.chain_pem), "private_key": as_string(OTHER.key_pem)}
    with pytest.raises(Unusable, match=r"/r\.json \(a resource\)"):
        ResourceFile(resources({"tls_certificate": pair}), "/r.json")


@pytest.mark.parametrize(
    "pair",
    [
        {"certificate_chain": as_string(ONE.chain_pem)},
        {"private_key": as_string(OTHER.key_pem)},
        {"certificate_chain": as_string(ONE.chain_pem), "private_key": {"filename": "/k"}},
        {"certificate_chain": {"inline_bytes": "%%%"}, "private_key": as_string(OTHER.key_pem)},
        {"certificate_chain": {"inline_bytes": "é"}, "private_key": as_string(OTHER.key_pem)},
        {"certificate_chain": "x", "private_key": ["y"]},
    ],
    ids=["no key", "no chain", "a key in a file", "no base64", "no ASCII", "no source"],
)
def test_a_pair_that_is_not_whole_within_is_left_to_the_proxy(pair: object) -> None:
    ResourceFile(resources({"name": "edge", "tls_certificate": pair}), "/r.json")


def test_an_inline_string_counts_before_inline_bytes() -> None:
    pair = {
        "certificate_chain": as_string(ONE.chain_pem) | as_bytes(b"nothing"),
        "private_key": as_string(ONE.key_pem) | as_bytes(b"nothing"),
    }
    ResourceFile(resources({"name": "edge", "tls_certificate": pair}), "/r.json")
