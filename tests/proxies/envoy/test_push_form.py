"""The form that takes pushes is the operator's bootstrap, taken apart: put together again, it is the same."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.handoff import gate
from agent.proxies.envoy.document import Content
from agent.proxies.envoy.push_form import SECRET, PushForm
from tests.proxies.envoy.push_documents import (
    Tree,
    bootstrap,
    bundle,
    camel,
    chain,
    cluster,
    configured,
    content,
    context,
    listener,
    numbers_of,
    pair,
    quic,
    snake,
    source,
    tls,
)

BOTH = pytest.mark.parametrize("drains", [True, False], ids=["by listeners", "by secrets"])


class Parts:
    """The parts of one bootstrap in this form, filled in for an epoch."""

    def __init__(
        self,
        tree: Tree | str,
        *,
        drains: bool,
        as_json: bool = False,
        numbers: Mapping[str, int] | None = None,
        contents: Mapping[str, bytes] | None = None,
    ) -> None:
        configuration = configured(tree, drains=drains, as_json=as_json)
        self.numbers = numbers_of(configuration) if numbers is None else numbers
        held = {path: content(path) for path in self.numbers} | dict(contents or {})
        self.contents = {path: Content(data, data.decode()[::-1]) for path, data in held.items()}
        copies = configuration.copies(self.numbers)
        self.main_text, self.extra, self.delivery = copies.fill_pushable("/run/7", 7, self.numbers, as_json=True)
        self.form: PushForm = self.delivery._form
        self.main = json.loads(self.main_text)
        plain, _ = configuration.copies(self.numbers).fill("/run/7", 7, self.numbers, as_json=True)
        self.plain = json.loads(plain)

    @property
    def listeners_text(self) -> str:
        """The resources of the listener discovery response."""
        template = self.form.listeners
        return "" if template is None else template.fill("/run/7", 7, self.numbers, contents=self.contents)

    @property
    def listeners(self) -> list[Tree]:
        found: list[Tree] = json.loads(f"[{self.listeners_text}]")
        return found

    @property
    def secrets(self) -> dict[str, Tree]:
        filled = {
            name: template.fill("/run/7", 7, self.numbers, contents=self.contents)
            for name, template in self.form.secrets.items()
        }
        return {name: json.loads(text) for name, text in filled.items()}

    def together(self) -> Tree:
        """Put the parts together again, with keys in snake_case."""
        tree: Tree = snake(self.main)
        if self.form.listeners is not None:
            for each in (listeners := snake(self.listeners)):
                del each["@type"]
                for one in [*each.get("filter_chains", []), *filter(None, [each.get("default_filter_chain")])]:
                    _unmark(one)
            kept = tree["static_resources"].get("listeners", [])
            tree["static_resources"]["listeners"] = kept + listeners
            assert tree["dynamic_resources"].pop("lds_config") == gate.source("0.1s")
        self._inline(tree)
        return tree

    def _inline(self, tree: Any) -> None:  # noqa: ANN401
        for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            self._inline(each)
        if not isinstance(tree, dict):
            return
        names = [each["name"] for each in tree.get("tls_certificate_sds_secret_configs", [])]
        if names and all(name.startswith(SECRET) for name in names):
            del tree["tls_certificate_sds_secret_configs"]
            tree["tls_certificates"] = [self._named(snake(self.secrets[name]["tls_certificate"])) for name in names]
        validation = tree.get("validation_context_sds_secret_config", {}).get("name", "")
        if validation.startswith(SECRET):
            del tree["validation_context_sds_secret_config"]
            tree["validation_context"] = self._named(snake(self.secrets[validation]["validation_context"]))

    def _named(self, secret: Tree) -> Tree:
        """Name the files again whose contents are inline."""
        known = {base64.b64encode(each.data).decode(): path for path, each in self.contents.items()}
        for value in secret.values():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and each.get("inline_bytes") in known:
                    each["filename"] = f"/dev/fd/{self.numbers[known[each.pop('inline_bytes')]]}"
        return secret


def _unmark(one: Tree) -> None:
    metadata = one.get("metadata", {}).get("filter_metadata", {})
    if "agent" in metadata:
        digest = metadata.pop("agent")["files"]
        assert len(digest) == 16
        if not metadata:
            del one["metadata"]["filter_metadata"]
            if not one["metadata"]:
                del one["metadata"]


def same(one: Tree, other: Tree) -> None:
    """Check that two bootstraps are equal but for the order of listeners and the spelling of keys."""
    one, other = snake(one), snake(other)
    for tree in (one, other):
        tree.setdefault("static_resources", {}).setdefault("listeners", []).sort(key=json.dumps)
        if not tree.get("dynamic_resources"):
            tree.pop("dynamic_resources", None)
        for each in tree["static_resources"].get("clusters", []):
            if each["name"] == gate.NAME:
                each.pop("circuit_breakers", None)  # more may wait at the gate
    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# Any bootstrap


NAMES = st.sampled_from("abcd")
INLINE = {"certificate_chain": {"inline_string": "x"}, "private_key": {"inline_string": "y"}}
CERTIFICATES = st.lists(
    st.one_of(NAMES.map(pair), NAMES.map(lambda n: {"pkcs12": source(f"/c/{n}.p12")}), st.just(INLINE)), max_size=3
)
VALIDATIONS: st.SearchStrategy[Tree] = st.one_of(
    st.just({}),
    NAMES.map(lambda n: {"validation_context": bundle(n)}),
    NAMES.map(lambda n: {"combined_validation_context": {"default_validation_context": bundle(n)}}),
    st.just({"validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}}),
)
OTHERS = st.sampled_from(
    [
        {},
        {"alpn_protocols": ["h2"]},
        {"tls_certificate_sds_secret_configs": [{"name": "operators", "sds_config": {"ads": {}}}]},
        {"session_ticket_keys": {"keys": [source("/c/ticket")]}},
    ]
)
CONTEXTS = st.builds(lambda pairs, *more: context(*pairs, **more[0], **more[1]), CERTIFICATES, VALIDATIONS, OTHERS)
SOCKETS = st.one_of(st.none(), CONTEXTS.map(tls), CONTEXTS.map(quic))
MORE = st.fixed_dictionaries(
    {},
    optional={
        "default_filter_chain": SOCKETS.map(chain),
        "api_listener": st.just({}),
        "metadata": st.just({"filter_metadata": {"own": {"a": 1}}}),
    },
)
LISTENERS = st.lists(st.tuples(st.lists(SOCKETS.map(chain), max_size=3), MORE), max_size=3)
CLUSTERS = st.lists(st.one_of(st.none(), CONTEXTS), max_size=2)


@st.composite
def bootstraps(draw: st.DrawFn) -> Tree:
    listeners = [listener(f"l{n}", *chains, **more) for n, (chains, more) in enumerate(draw(LISTENERS))]
    clusters = [cluster(f"c{n}", common) for n, common in enumerate(draw(CLUSTERS))]
    secrets = [{"name": "s", "tls_certificate": pair(name)} for name in draw(st.lists(NAMES, max_size=1))]
    tree = bootstrap(listeners, clusters)
    if secrets:
        tree["static_resources"]["secrets"] = secrets
    tree = draw(st.sampled_from([tree, camel(tree)]))
    assert isinstance(tree, dict)
    return tree


@settings(max_examples=60)
@given(tree=bootstraps(), drains=st.booleans(), as_json=st.booleans(), shared=st.booleans())
def test_put_together_again_it_is_the_copy_without_pushes(
    tree: Tree, drains: bool, as_json: bool, shared: bool
) -> None:
    """`shared`: equal parts of the YAML are aliases of one."""
    text = tree if as_json or not shared else yaml.dump(_shared(tree, {}), Dumper=yaml.SafeDumper)
    made = Parts(text, drains=drains, as_json=as_json)
    same(made.together(), made.plain)


def _shared(tree: Any, known: dict[str, Any]) -> Any:  # noqa: ANN401
    if isinstance(tree, dict):
        tree = {key: _shared(value, known) for key, value in tree.items()}
    elif isinstance(tree, list):
        tree = [_shared(each, known) for each in tree]
    return known.setdefault(json.dumps(tree), tree)


@settings(max_examples=60)
@given(tree=bootstraps(), drains=st.booleans(), as_json=st.booleans())
def test_what_can_be_pushed_is_not_in_the_bootstrap_and_no_content_is_where_it_would_show(
    tree: Tree, drains: bool, as_json: bool
) -> None:
    made = Parts(tree, drains=drains, as_json=as_json)
    for path in configured(tree, drains=drains, as_json=as_json).pushable_files:
        assert f'"/dev/fd/{made.numbers[path]}"' not in made.main_text
    for text in (made.main_text, made.listeners_text, repr(made.form), repr(made.contents)):
        assert "__agent_" not in text.replace("__agent_file", "")
        assert "secret of" not in text
        assert base64.b64encode(b"the secret of /c/")[:-3].decode() not in text


# Listeners


def one(common: Tree, name: str | None = "edge", **more: object) -> Tree:
    return bootstrap([listener(name, chain(tls(common)), **more)])


def digests(made: Parts) -> list[str | None]:
    chains = [each for one in made.listeners for each in one.get("filter_chains", [])]
    found = [each.get("metadata", {}).get("filter_metadata", {}).get("agent") for each in chains]
    return [None if each is None else each["files"] for each in found]


def test_listeners_come_from_the_gate_and_name_descriptors() -> None:
    made = Parts(one(context(pair("a"))), drains=True)
    assert made.main["dynamic_resources"] == {"lds_config": gate.source("0.1s")}
    assert "listeners" not in made.main["static_resources"]
    edge, gates = made.listeners
    assert edge["@type"] == "type.googleapis.com/envoy.config.listener.v3.Listener"
    assert (edge["name"], gates["name"]) == ("edge", gate.NAME)
    socket = edge["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    chain_number, key_number = (made.numbers[f"/c/a.{kind}"] for kind in ("crt", "key"))
    assert socket["tls_certificates"] == [
        {"certificate_chain": source(f"/dev/fd/{chain_number}"), "private_key": source(f"/dev/fd/{key_number}")}
    ]
    assert made.form.secrets == {}
    assert made.delivery.drains


def test_a_listener_without_a_name_gets_one() -> None:
    tree = bootstrap([listener(None, chain(None)), listener("own", chain(None)), listener("", chain(None))])
    names = [each["name"] for each in Parts(tree, drains=True).listeners]
    assert names == ["agent_listener_0", "own", "agent_listener_2", gate.NAME]


def test_an_api_listener_stays_in_the_bootstrap() -> None:
    tree = bootstrap([listener("api", api_listener={}), listener("edge")])
    made = Parts(tree, drains=True)
    assert [each["name"] for each in made.main["static_resources"]["listeners"]] == ["api"]
    assert [each["name"] for each in made.listeners] == ["edge", gate.NAME]


def test_a_chain_changes_with_its_own_files_alone_and_keeps_its_metadata() -> None:
    chains = [chain(tls(context(pair(name))), f"{name}.test") for name in "ab"]
    chains[0]["metadata"] = {"filter_metadata": {"own": {"x": 1}}}
    tree = bootstrap([listener("edge", *chains, chain(None), chain(tls(context(INLINE))))])
    before = digests(Parts(tree, drains=True))
    made = Parts(tree, drains=True, contents={"/c/b.key": b"another"})
    after = digests(made)
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2:] == after[2:] == [None, None, None]
    assert made.listeners[0]["filter_chains"][0]["metadata"]["filter_metadata"]["own"] == {"x": 1}


def test_a_push_that_reuses_a_descriptor_changes_the_chain() -> None:
    numbers = {"/c/a.crt": 5, "/c/a.key": 6}
    old, new = (
        Parts(one(context(pair("a"))), drains=True, numbers=numbers, contents={"/c/a.crt": data})
        for data in (b"old", b"new")
    )
    assert old.main_text == new.main_text
    assert old.listeners_text != new.listeners_text


def test_the_operators_other_sources_stay() -> None:
    tree = one(context(pair("a"))) | {"dynamic_resources": {"cds_config": {"ads": {}}}}
    made = Parts(tree, drains=True)
    assert made.main["dynamic_resources"] == {"cds_config": {"ads": {}}, "lds_config": gate.source("0.1s")}


def test_with_an_lds_of_the_operators_certificates_of_listeners_are_secrets() -> None:
    lds = {"ads": {}, "resource_api_version": "V3"}
    tree = one(context(pair("a"))) | {"dynamic_resources": {"lds_config": lds}}
    made = Parts(tree, drains=True)
    assert made.main["dynamic_resources"] == {"lds_config": lds}
    assert made.form.listeners is None
    assert list(made.secrets) == [f"{SECRET}0"]
    assert not made.delivery.drains


# Secrets


@BOTH
def test_certificates_of_clusters_are_secrets_with_their_contents(drains: bool) -> None:
    made = Parts(bootstrap([], [cluster("up", context(pair("a"), validation_context=bundle("a")))]), drains=drains)
    typed = made.main["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]
    assert typed["common_tls_context"] == {
        "tls_certificate_sds_secret_configs": [{"name": f"{SECRET}0", "sds_config": gate.source("0.5s")}],
        "validation_context_sds_secret_config": {"name": f"{SECRET}1", "sds_config": gate.source("0.5s")},
    }
    encoded = {kind: base64.b64encode(content(f"/c/a.{kind}")).decode() for kind in ("crt", "key", "ca")}
    secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    assert made.secrets == {
        f"{SECRET}0": {
            "@type": secret,
            "name": f"{SECRET}0",
            "tls_certificate": {
                "certificate_chain": {"inline_bytes": encoded["crt"]},
                "private_key": {"inline_bytes": encoded["key"]},
            },
        },
        f"{SECRET}1": {
            "@type": secret,
            "name": f"{SECRET}1",
            "validation_context": {"trusted_ca": {"inline_bytes": encoded["ca"]}},
        },
    }


def test_what_is_no_file_stays_in_the_secret_and_nothing_is_watched() -> None:
    """Envoy would need an inotify instance a secret, and aborts when there are no more."""
    watched = {"path": "/c"}
    certificate = pair("a", password={"inline_string": "p"}, watched_directory=watched)
    certificate["private_key"]["watched_directory"] = watched
    validation = {**bundle("a"), "watched_directory": watched, "max_verify_depth": 3}
    made = Parts(one(context(certificate, validation_context=validation)), drains=False)
    pairs, checks = made.secrets.values()
    assert pairs["tls_certificate"]["password"] == {"inline_string": "p"}
    assert checks["validation_context"]["max_verify_depth"] == 3
    assert "watched_directory" not in json.dumps(made.secrets)


def test_secrets_are_numbered_over_all_contexts() -> None:
    listeners = [listener("edge", chain(tls(context(pair("a"), pair("b")))))]
    made = Parts(bootstrap(listeners, [cluster("up", context(pair("c")))]), drains=False)
    keys = [each["tls_certificate"]["private_key"]["inline_bytes"] for each in made.secrets.values()]
    assert list(made.secrets) == [f"{SECRET}{n}" for n in range(3)]
    assert [base64.b64decode(each) for each in keys] == [content(f"/c/{name}.key") for name in "abc"]


@pytest.mark.parametrize("drains", [True, False])
def test_a_file_that_is_not_materialised_stays_a_name(drains: bool) -> None:
    made = Parts(bootstrap([], [cluster("up", context(pair("a")))]), drains=drains, numbers={"/c/a.crt": 5})
    [secret] = made.secrets.values()
    assert secret["tls_certificate"]["private_key"] == source("/c/a.key")


# The configuration


def test_an_extra_document_with_resources_keeps_everything_from_being_pushed() -> None:
    tree = one(context(pair("a")))
    for extra, expected in (("{node: {id: x}}", 2), ("{static_resources: {}}", 0), ("{dynamicResources: {}}", 0)):
        assert len(configured(tree, extra=extra).pushable_files) == expected


def test_an_extra_document_is_filled_in_as_without_pushes() -> None:
    configuration = configured(
        one(context(pair("a"))), extra="{application_log_config: {log_format: {text_format: v}}}"
    )
    numbers = numbers_of(configuration)
    _, extra, _ = configuration.copies(numbers).fill_pushable("/run/7", 7, numbers, as_json=True)
    assert extra is not None
    assert "[epoch 7] v" in extra


@pytest.mark.parametrize("as_json", [True, False])
def test_the_form_is_made_once_and_in_advance(as_json: bool) -> None:
    configuration = configured(one(context(pair("a"))))
    copies = configuration.copies(numbers_of(configuration))
    assert not copies.are_made(as_json=as_json)
    copies.prepare(as_json=as_json)
    assert copies.are_made(as_json=as_json)
    assert copies._form(as_json=as_json) is copies._form(as_json=as_json)
    assert not copies.are_made(as_json=not as_json)
