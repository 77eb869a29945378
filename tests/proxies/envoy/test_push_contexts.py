"""Which certificate files a push reaches: those that are named only where it does."""

import json

import pytest
from yaml.nodes import MappingNode

from agent.proxies.envoy import push_contexts, yaml_nodes
from agent.proxies.envoy.configuration import Configuration
from tests.proxies.envoy.push_documents import (
    Tree,
    bootstrap,
    bundle,
    camel,
    chain,
    cluster,
    configured,
    context,
    listener,
    pair,
    parsed,
    pushable,
    quic,
    source,
    tls,
)

A, B = {"a.crt", "a.key"}, {"b.crt", "b.key"}
BOTH = pytest.mark.parametrize("drains", [True, False], ids=["by listeners", "by secrets"])


def one(common: Tree, **more: object) -> Tree:
    """A bootstrap with one listener that has this TLS context."""
    return bootstrap([listener("edge", chain(tls(common)), **more)])


@BOTH
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("spelled", ["snake_case", "camelCase"])
def test_certificates_and_bundles_of_listeners_and_clusters_can_be_pushed(
    drains: bool, as_json: bool, spelled: str
) -> None:
    common = context(pair("a"), validation_context=bundle("a"))
    upstream = cluster("up", context(pair("b"), validation_context=bundle("b")))
    tree = bootstrap([listener("edge", chain(tls(common)))], [upstream, cluster("plain")])
    tree = camel(tree) if spelled == "camelCase" else tree
    assert pushable(tree, drains=drains, as_json=as_json) == {*A, *B, "a.ca", "b.ca"}


@BOTH
def test_every_chain_counts_and_the_default_one(drains: bool) -> None:
    chains = [chain(tls(context(pair(name))), f"{name}.test") for name in ("a", "b")]
    default = chain(tls(context(pair("d"))))
    tree = bootstrap([listener("edge", *chains, chain(None), default_filter_chain=default)])
    assert pushable(tree, drains=drains) == {*A, *B, "d.crt", "d.key"}


@BOTH
def test_quic_is_tls_as_well(drains: bool) -> None:
    assert pushable(bootstrap([listener("h3", chain(quic(context(pair("a")))))]), drains=drains) == A


@BOTH
def test_all_files_of_a_certificate_come_with_it(drains: bool) -> None:
    whole = pair("a", ocsp_staple=source("/c/a.ocsp"), password=source("/c/a.password"))
    crl = {**bundle("a"), "crl": source("/c/a.crl")}
    expected = {*A, "a.ocsp", "a.password", "a.ca", "a.crl"}
    assert pushable(one(context(whole, validation_context=crl)), drains=drains) == expected


@BOTH
def test_a_file_that_is_named_twice_where_pushes_reach_is_pushed_to_both(drains: bool) -> None:
    tree = bootstrap([listener(name, chain(tls(context(pair("a"))))) for name in ("one", "two")])
    assert pushable(tree, drains=drains) == A


@BOTH
@pytest.mark.parametrize(
    "more",
    [
        {"layered_runtime": {"lua": {"filename": "/c/a.key"}}},
        {"static": {"secrets": [{"tls_certificate": pair("a")}]}},
        {"admin": {"access_log": [{"source": source("/c/a.crt")}]}},
    ],
    ids=["another kind of file", "a static secret", "a log"],
)
def test_a_file_that_is_named_elsewhere_cannot_be_pushed(drains: bool, more: Tree) -> None:
    tree = one(context(pair("a"), pair("b"))) | more
    elsewhere = A if "static" in more else {"a.key"} if "layered_runtime" in more else {"a.crt"}
    assert pushable(tree, drains=drains) == {*A, *B} - elsewhere


@BOTH
def test_a_filter_of_the_listener_that_reads_the_file_keeps_it_from_being_pushed(drains: bool) -> None:
    lua = {"name": "lua", "typed_config": {"default_source_code": source("/c/a.ca")}}
    both = {**chain(tls(context(pair("a"), validation_context=bundle("a")))), "filters": [lua]}
    assert pushable(bootstrap([listener("edge", both)]), drains=drains) == A


@BOTH
def test_tls_outside_of_listeners_and_clusters_is_not_reached(drains: bool) -> None:
    assert pushable({"somewhere": {"common_tls_context": context(pair("a"))}}, drains=drains) == set()


@BOTH
def test_an_api_listener_stays_with_the_proxy(drains: bool) -> None:
    inner = listener("api", chain(tls(context(pair("a")))), api_listener={})
    outer = listener("edge", chain(tls(context(pair("b")))))
    assert pushable(bootstrap([inner, outer]), drains=drains) == B
    found = push_contexts.listeners_of(parsed(bootstrap([inner, outer])))
    assert [yaml_nodes.text(yaml_nodes.get(each, "name")) for each in found] == ["edge"]


@pytest.mark.parametrize(
    ("common", "by_listeners", "by_secrets"),
    [
        (context(pair("a"), session_ticket_keys={"keys": [source("/c/ticket")]}), A, A),
        (context(pair("a"), {"pkcs12": source("/c/b.p12")}), A, set()),
        (context(*(pair(f"{n}") for n in range(16))), 32, 32),
        (context(*(pair(f"{n}") for n in range(17))), 34, 0),
        (context(pair("a"), tls_certificate_sds_secret_configs=[{"name": "operator"}]), A, set()),
        (context(pair("a"), tls_certificate_provider_instance={"instance_name": "x"}), A, set()),
        (context(pair("a"), custom_tls_certificate_selector={"name": "x"}), A, set()),
        (
            context(pair("a"), combined_validation_context={"default_validation_context": bundle("a")}),
            {*A, "a.ca"},
            A,
        ),
        (context(validation_context=bundle("a")), {"a.ca"}, {"a.ca"}),
        (context(validation_context={"match_subject": []}), set(), set()),
        (context(pair("a"), {"certificate_chain": {"inline_string": "x"}}), A, A),
        (context({"certificate_chain": {"inline_string": "x"}}), set(), set()),
    ],
    ids=[
        "session ticket keys stay",
        "PKCS #12",
        "as many as become secrets",
        "more than become secrets",
        "files beside secrets",
        "files beside a provider",
        "files beside a selector",
        "combined validation",
        "only a bundle",
        "validation without a file",
        "files beside inline",
        "only inline",
    ],
)
def test_what_can_be_pushed_of_one_context(
    common: Tree, by_listeners: set[str] | int, by_secrets: set[str] | int
) -> None:
    for drains, expected in ((True, by_listeners), (False, by_secrets)):
        found = pushable(one(common), drains=drains)
        assert (len(found) if isinstance(expected, int) else found) == expected
        upstream = pushable(bootstrap([], [cluster("up", common)]), drains=drains)
        assert (len(upstream) if isinstance(by_secrets, int) else upstream) == by_secrets


def test_an_alias_counts_wherever_it_stands() -> None:
    """Else a file would be pushed into one place and stay old in the other."""
    certificate = "&pair {certificate_chain: {filename: /c/a.crt}, private_key: {filename: /c/a.key}}"
    elsewhere = f"secrets: [{{name: s, tls_certificate: {certificate}}}]"
    reached = f"clusters: [{{common_tls_context: {{tls_certificates: [{certificate}]}}}}]"
    edge = "listeners: [{name: edge, filter_chains: [{socket: {common_tls_context: {tls_certificates: [*pair]}}}]}]"
    text, shared = (f"static_resources: {{{first}, {edge}}}" for first in (elsewhere, reached))
    for drains in (True, False):
        assert pushable(text, drains=drains) == set()
        assert pushable(shared, drains=drains) == A


@pytest.mark.parametrize("text", ["", "static_resources: x", "static_resources: {listeners: [x], clusters: {}}"])
def test_nothing_of_another_form_is_found(text: str) -> None:
    assert pushable(text) == set()
    assert push_contexts.listeners_of(parsed(text)) == push_contexts.clusters_of(parsed(text)) == []


def test_the_default_chain_is_the_last() -> None:
    made = listener("edge", chain(None, "a"), chain(None, "b"), default_filter_chain={"name": "default"})
    root = parsed(made)
    names = [yaml_nodes.text(yaml_nodes.get(each, "name")) for each in push_contexts.chains_of(root)]
    assert names == [None, None, "default"]
    assert list(push_contexts.chains_of(parsed({"filter_chains": ["x"]}))) == []


def test_data_sources_are_those_that_name_a_file() -> None:
    root = parsed({"a": source("/x"), "b": {"filename": ["/y"]}, "c": [{"inline_string": "z"}, source("/z")]})
    found = list(push_contexts.file_nodes(root))
    assert [name.value for _, name in found] == ["/x", "/z"]
    assert all(isinstance(mapping, MappingNode) for mapping, _ in found)


def test_without_a_push_mode_nothing_can_be_pushed() -> None:
    text = "static_resources: {clusters: []}"
    assert configured(text).pushable_files == frozenset()
    text = json.dumps(one(context(pair("a"))))
    assert Configuration(text, "/etc/envoy.json").pushable_files == frozenset()
