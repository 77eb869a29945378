"""A configuration with resource files: the files it names, the order of their copies, and the copies' content."""

import base64
import json
from typing import Any

import pytest

from agent.certificates.references import Role
from agent.core.errors import BadInput
from agent.proxies.envoy import yaml_nodes
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.subscriptions import subscription
from tests.pki import Authority

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
BOOTSTRAP = """
dynamic_resources:
  lds_config: {resource_api_version: V3, path_config_source: {path: /d/lds.yaml, watched_directory: {path: /d}}}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: plane}}]}
"""
LDS = f"""
resources:
- "@type": {LISTENER}
  name: edge
  address: {{socket_address: {{address: 127.0.0.1, port_value: 8443}}}}
  enable_reuse_port: no
  tls:
    private_key: {{filename: /c/tls.key}}
    certificate_chain: {{filename: /c/tls.crt}}
  secrets: [{{name: 'spiffe://a/b', sds_config: {{path_config_source: {{path: /d/sds.json}}}}}}]
"""
SDS = json.dumps(
    {"resources": [{"@type": SECRET, "name": "s", "validation_context": {"trusted_ca": {"filename": "/c/ca"}}}]}
)
BOTH = {"/d/lds.yaml": LDS.encode(), "/d/sds.json": SDS.encode()}


def whole(**more: bytes) -> Configuration:
    return Configuration(BOOTSTRAP, "envoy.yaml", None, {**BOTH, **more})


def held(configuration: Configuration, files: dict[str, int]) -> tuple[dict[str, int], dict[str, Any]]:
    """Copy the resource files; return the descriptors, and the content of each, in order."""
    contents: dict[str, Any] = {}

    def hold(path: str, data: bytes) -> int:
        contents[path] = json.loads(data)
        return 100 + len(contents)

    descriptors = dict(files)
    configuration.copies(files).hold_resources(descriptors, hold)
    return descriptors, contents


def test_files_of_resources_are_asked_for_one_level_after_the_other() -> None:
    assert Configuration(BOOTSTRAP, "envoy.yaml").unread == ["/d/lds.yaml"]
    assert Configuration(BOOTSTRAP, "envoy.yaml", None, {"/d/lds.yaml": LDS.encode()}).unread == ["/d/sds.json"]
    assert whole().unread == []


def test_what_they_name_is_referenced_like_what_the_bootstrap_names() -> None:
    found = {each.path: (each.role, each.group) for each in whole().references}
    assert found == {
        "/c/tls.crt": (Role.CHAIN, "/c/tls.crt"),
        "/c/tls.key": (Role.KEY, "/c/tls.crt"),
        "/c/ca": (Role.BUNDLE, "/c/ca"),
    }
    assert whole().resource_references == {"/c/tls.crt", "/c/tls.key", "/c/ca"}


def test_their_listeners_are_the_configurations_own() -> None:
    (listener,) = whole().listeners
    assert (listener.place.address, listener.reuse_port) == ("tcp://127.0.0.1:8443", False)
    assert not whole().has_dynamic_listeners


def test_they_become_descriptors_the_innermost_first() -> None:
    descriptors, contents = held(whole(), {"/c/tls.key": 7, "/c/tls.crt": 8, "/c/ca": 9})
    assert list(contents) == ["/d/sds.json", "/d/lds.yaml"]
    (secret,) = contents["/d/sds.json"]["resources"]
    assert secret["validation_context"]["trusted_ca"]["filename"] == "/dev/fd/9"
    (listener,) = contents["/d/lds.yaml"]["resources"]
    assert listener["tls"]["private_key"]["filename"] == "/dev/fd/7"
    assert listener["enable_reuse_port"] is False
    assert listener["secrets"][0]["sds_config"]["path_config_source"] == {"path": "/dev/fd/101"}
    main, _ = whole().copies([]).fill("/run/1", 1, descriptors, as_json=True)
    source = json.loads(main)["dynamic_resources"]["lds_config"]["path_config_source"]
    assert source == {"path": "/dev/fd/102"}, "nothing is watched that cannot change"


def test_fetched_resources_are_listed_with_their_sources() -> None:
    configuration = whole()
    assert configuration.sets == {"listener_manager.lds": "/d/lds.yaml", "cluster_manager.cds": None}
    assert configuration.control_planes == ["plane"]
    assert configuration.source_of(subscription("sds.spiffe_a/b", 0, 0, 0)) == "/d/sds.json"
    assert configuration.source_of(subscription("sds.other", 0, 0, 0)) is None
    assert configuration.source_of(subscription("cluster_manager.cds", 0, 0, 0)) is None
    assert not configuration.is_static
    assert Configuration("{}", "envoy.yaml").is_static


def test_the_older_spelling_of_a_source_counts_where_it_is_one() -> None:
    older = "dynamic_resources: {lds_config: {path: /d/l.json, resource_api_version: V3}}"
    assert Configuration(older, "e.yaml").unread == ["/d/l.json"]
    assert Configuration("app: {config_source: {path: /home/me}}", "e.yaml").unread == []


def test_what_only_envoy_can_read_is_left_to_it() -> None:
    binary = Configuration("dynamic_resources: {lds_config: {path_config_source: {path: /d/l.pb}}}", "e.yaml")
    assert (binary.unread, binary.protobuf_sources) == ([], ["/d/l.pb"])
    assert binary.has_dynamic_listeners


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot read /d/lds.yaml: it is empty"),
        (b"resources: [", "cannot read /d/lds.yaml: line "),
        (b"\xff", "cannot read /d/lds.yaml: byte 0 is not UTF-8"),
        (b"x: {path_config_source: {path: /d/lds.yaml}}", "cannot use /d/lds.yaml: it is a source of resources of"),
    ],
)
def test_one_that_cannot_be_used_is_named(content: bytes, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        whole(**{"/d/lds.yaml": content})
    assert str(caught.value).startswith(said)


def secret(chain: bytes, key: bytes) -> bytes:
    pair = {"certificate_chain": {"inline_string": chain.decode()}}
    pair["private_key"] = {"inline_bytes": base64.b64encode(key).decode()}
    return json.dumps({"resources": [{"@type": SECRET, "name": "edge", "tls_certificate": pair}]}).encode()


def test_a_pair_in_a_resource_file_is_checked() -> None:
    one, other = (Authority.create("ca").issue(["a.test"]) for _ in range(2))
    whole(**{"/d/sds.json": secret(one.chain_pem, one.key_pem)})
    with pytest.raises(BadInput, match=r"cannot use /d/sds\.json \(edge\): it does not fit the leaf"):
        whole(**{"/d/sds.json": secret(one.chain_pem, other.key_pem)})
    with pytest.raises(BadInput, match=r"cannot use /d/sds\.json \(edge\): there is no PEM in it"):
        whole(**{"/d/sds.json": secret(one.chain_pem, b"garbage")})


def test_aliases_that_stand_for_too_much_are_refused() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = "\n".join(["l0: &l0 [x, x]", *levels])
    with pytest.raises(BadInput, match="its aliases stand for more than"):
        Configuration(text, "e.yaml")


def test_aliases_that_go_too_deep_or_round_in_circles_are_refused() -> None:
    levels = "\n".join(f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, 1500))
    for text, reason in ((f"l0: &l0 x\n{levels}", "levels deep"), ("a: &a [*a]", "stand for more than")):
        with pytest.raises(BadInput, match=reason):
            Configuration(text, "e.yaml")


EXTRA = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9902}}, allow_paths: [{exact: /b}]}
node: {id: other, cluster: fleet}
static_resources: {listeners: [{address: {socket_address: {address: 127.0.0.1, port_value: 53, protocol: UDP}}}]}
application_log_config: {log_format: {text_format: '%v'}}
"""
MAIN = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}, allow_paths: [{exact: /a}]}
node: {id: first}
"""


def test_the_extra_document_counts_as_envoy_merges_it() -> None:
    configuration = Configuration(MAIN, "envoy.yaml", EXTRA)
    assert configuration.node == ("first", "fleet")
    assert configuration.has_log_format
    assert configuration.has_udp
    assert [each.place.address for each in configuration.listeners] == ["udp://127.0.0.1:53"]
    admin = configuration.admin_address
    assert admin is not None
    assert admin.address == "tcp://127.0.0.1:9902"
    assert len(admin.allowed) == 2


def test_a_document_alone_has_what_it_says() -> None:
    configuration = Configuration(MAIN, "envoy.yaml")
    assert configuration.node == ("first", None)
    assert not configuration.has_log_format
    assert not configuration.has_udp
    assert configuration.admin_address is not None
    assert configuration.admin_address.address == "tcp://127.0.0.1:9901"
    nothing = Configuration("{}", "envoy.yaml")
    assert (nothing.admin_address, nothing.node, nothing.listeners) == (None, (None, None), [])


@pytest.mark.parametrize(("name", "words"), [("envoy.pb", r"\.pb"), ("envoy", "missing"), ("envoy.YAML", r"\.YAML")])
def test_a_bootstrap_of_another_format_is_refused_with_its_suffix(name: str, words: str) -> None:
    with pytest.raises(BadInput, match=f"{name}.*{words}"):
        Configuration("{}", name)


def test_the_groups_of_a_resource_file_are_its_own() -> None:
    assert whole().groups_in("/d/lds.yaml") == {"/c/tls.crt"}
    assert whole().groups_in("/d/sds.json") == {"/c/ca"}


@pytest.mark.parametrize("as_json", [False, True])
def test_copies_are_made_on_demand_and_once(as_json: bool) -> None:
    configuration = Configuration(BOOTSTRAP, "envoy.yaml", EXTRA, BOTH)
    copies = configuration.copies(["/c/tls.key"])
    assert not copies.are_made(as_json=as_json)
    copies.prepare(as_json=as_json)
    assert copies.are_made(as_json=as_json)
    assert not copies.are_made(as_json=not as_json)
    assert configuration.copies({"/c/tls.key"}) is copies
    assert configuration.copies(["/c/tls.crt"]) is not copies


def test_the_copy_of_the_extra_document_is_yaml_whatever_the_main_one_is() -> None:
    main, extra = Configuration("{}", "envoy.yaml", EXTRA).copies([]).fill("/run/1", 3, {}, as_json=True)
    assert "static_resources" in json.loads(main)
    assert extra is not None
    assert "[epoch 3] %v" in extra
    assert "9902" not in extra
    assert Configuration("{}", "envoy.yaml").copies([]).fill("/run/1", 3, {})[1] is None


@pytest.mark.parametrize("name", ["envoy.yaml", "envoy.yml", "envoy.json"])
def test_a_configuration_keeps_its_name_and_the_extra_document(name: str) -> None:
    configuration = Configuration("{}", name, "{node: {id: x}}")
    assert (configuration.name, configuration.extra) == (name, "{node: {id: x}}")
    assert Configuration("{}", name).extra is None


def test_an_extra_document_that_does_not_parse_is_named_by_its_flag() -> None:
    with pytest.raises(BadInput, match=r"--config-yaml: line \d"):
        Configuration("{}", "envoy.yaml", "a: [")


@pytest.mark.parametrize(
    "text",
    [
        "dynamic_resources: {lds_config: {ads: {}, resource_api_version: V3}}",
        "x: {api_config_source: {cluster_names: [plane]}}",
        "x: {path_config_source: {path: /d/r.pb}}",
        "x: {path_config_source: {path: /d/r.json}}",
    ],
    ids=["listeners by a control plane", "a control plane", "a file in protobuf", "a file"],
)
def test_what_fetches_anything_is_not_loaded_from_the_beginning(text: str) -> None:
    resources = dict.fromkeys(Configuration(text, "envoy.yaml").unread, b"{}")
    assert not Configuration(text, "envoy.yaml", None, resources).is_static


@pytest.mark.parametrize("as_json", [False, True])
def test_what_has_been_prepared_is_only_filled_in(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Configuration(BOOTSTRAP, "envoy.yaml", "{node: {id: x}}", BOTH).copies([])
    copies.prepare(as_json=as_json)
    for name in ("write", "write_json"):
        monkeypatch.setattr(yaml_nodes, name, lambda *_, **__: pytest.fail("made again"))
    descriptors: dict[str, int] = {}
    copies.hold_resources(descriptors, lambda *_: 9)
    main, extra = copies.fill("/run/1", 1, descriptors, as_json=as_json)
    assert main.startswith("{") is as_json
    assert extra is not None
    assert extra.strip() == "{node: {id: x}}"
