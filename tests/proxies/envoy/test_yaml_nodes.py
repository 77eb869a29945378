import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agent.core.errors import BadInput
from agent.proxies.envoy import yaml_nodes
from tests.mutations import damaged_keys, leaks


def shape(node: Node) -> Any:  # noqa: ANN401
    """Return the structure of a document: the tag and the text of each scalar."""
    if isinstance(node, ScalarNode):
        return node.tag, node.value
    if isinstance(node, SequenceNode):
        return [shape(each) for each in node.value]
    assert isinstance(node, MappingNode)
    return [(shape(key), shape(value)) for key, value in node.value]


PLAIN = ["yes", "no", "on", "off", "y", "n", "~", "null", "1e3", "0777", "0o17", "0x1F", "1_000", "12:30:45", ".inf",
         "2001-12-14", "1.0", "+1", "true", "TRUE", "10s", "a@b"]  # fmt: skip


@pytest.mark.parametrize("scalar", PLAIN)
@pytest.mark.parametrize("style", ["{}", "'{}'", '"{}"'])
def test_a_scalar_stays_as_it_was_written(scalar: str, style: str) -> None:
    root = yaml_nodes.read(f"a: {style.format(scalar)}\n", "x.yaml")
    again = yaml_nodes.read(yaml_nodes.write(root), "x.yaml")
    assert shape(again) == shape(root)
    quoted = style != "{}"
    assert (yaml.safe_load(yaml_nodes.write(root))["a"] == scalar) or not quoted


BREAKS = "\x85\u2028\u2029\ufeff"  # libyaml folds them
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=BREAKS), max_size=30)
trees = st.recursive(
    st.one_of(texts, st.integers(), st.booleans(), st.none(), st.sampled_from(PLAIN)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=40)
@given(st.dictionaries(texts, trees, max_size=5))
def test_any_json_is_read_and_written_without_a_change_of_meaning(tree: dict[str, Any]) -> None:
    root = yaml_nodes.read(json.dumps(tree), "x.json")
    assert yaml.safe_load(yaml_nodes.write(root)) == tree


@settings(max_examples=40)
@given(st.dictionaries(texts, trees, max_size=5))
def test_any_yaml_is_read_and_written_without_a_change_of_meaning(tree: dict[str, Any]) -> None:
    root = yaml_nodes.read(yaml.safe_dump(tree, allow_unicode=True), "x.yaml")
    assert shape(yaml_nodes.read(yaml_nodes.write(root), "x.yaml")) == shape(root)
    assert yaml.safe_load(yaml_nodes.write(root)) == tree


@given(st.text(max_size=200), st.sampled_from(["x.yaml", "x.json"]))
def test_whatever_the_file_holds_is_a_mapping_or_bad_input(text: str, name: str) -> None:
    try:
        assert isinstance(yaml_nodes.read(text, name), MappingNode)
    except BadInput as error:
        if not str(error).startswith(f"cannot read {name}: "):
            raise


@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
def test_a_document_of_endless_depth_is_bad_input(name: str) -> None:
    text = '{"a":' * 5000 + "1" + "}" * 5000
    with pytest.raises(BadInput, match="nested more than 200 levels"):
        yaml_nodes.write(yaml_nodes.read(text, name))


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("a: b\nc: [1,\n", "x.yaml", "cannot read x.yaml: line 3, column 1: "),
        ("a: b\n c: d\n", "x.yaml", "line 2, column 3"),
        ("a: *b\n", "x.yaml", "line 1, column 4: "),
        ("# nothing\n", "x.yaml", "it contains only comments"),
        ("\0a\0:", "x.yaml", "UTF-16"),
        ('{"a": NaN}', "x.json", "NaN is not a value"),
        (r'{"a": "\ud83d"}', "x.json", "half of a surrogate pair"),
        ('{"a": 1,,}', "x.json", "line 1"),
        ("{'a\": 1}", "x.json", "line 1"),
        ("\ta: 1\n", "x.yaml", "line 1, column 1"),
        ('{"a": 1,\n "b": }', "x.json", "cannot read x.json: line 2, column 7"),
        ("[1]", "x.yaml", "its root is not a mapping"),
        ("just words", "x.yaml", "its root is not a mapping"),
        ("[1]", "x.json", "its root is not a mapping"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, name: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        yaml_nodes.read(text, name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "{}"])
def test_an_empty_document_is_an_empty_mapping(text: str) -> None:
    assert yaml_nodes.read(text, "x.yaml").value == []


def test_of_several_documents_the_first_one_counts() -> None:
    """As in Envoy; many files end with a line that begins another document."""
    assert shape(yaml_nodes.read("a: 1\n---\nb: 2\n", "x.yaml")) == shape(yaml_nodes.read("a: 1\n", "x.yaml"))


@pytest.mark.parametrize("letter", ["\0", "\x07", "\x1b", "\x7f", "\x90", "\ufffe", "\uffff"])
def test_control_characters_are_letters(letter: str) -> None:
    """yaml-cpp accepts them, and editors leave them in comments."""
    root = yaml_nodes.read(f"# {letter}\na: 'x{letter}y'\nb: ['{letter}']\n", "x.yaml")
    assert yaml_nodes.text(yaml_nodes.get(root, "a")) == f"x{letter}y"
    assert json.loads(yaml_nodes.write_json(root, from_json=False)) == {"a": f"x{letter}y", "b": [letter]}


def test_an_anchor_may_be_set_again() -> None:
    root = yaml_nodes.read("a: &x 1\nb: *x\nc: &x 2\nd: *x\n", "x.yaml")
    assert [yaml_nodes.text(yaml_nodes.get(root, key)) for key in "abcd"] == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2,], "b": {"c": "d",},}',
        "{'a': [1, 2], 'b': {'c': 'd'}}",
        '{a: [1, 2], b: {c: "d"}}',
        '{"a": [1, 2], "b": {"c": "d"}}',
    ],
)
def test_json_is_taken_as_protobuf_takes_it(text: str) -> None:
    root = yaml_nodes.read(text, "x.json")
    assert json.loads(yaml_nodes.write_json(root, from_json=True)) == {"a": [1, 2], "b": {"c": "d"}}


def test_strings_of_json_keep_their_quotes_and_control_characters() -> None:
    root = yaml_nodes.read("""{a: 'it\\'s "b"\ttab', "c": "d\ne"}""", "x.json")
    assert json.loads(yaml_nodes.write_json(root, from_json=True)) == {"a": 'it\'s "b"\ttab', "c": "d\ne"}


def test_a_key_that_stands_twice_in_json_is_left_for_envoy_to_judge() -> None:
    root = yaml_nodes.read('{"a": 1, "b": {"c": 1, "c": 2}}', "x.json")
    assert yaml_nodes.write_json(root, from_json=True) == '{"a": 1, "b": {"c": 1, "c": 2}}'


def test_json_may_be_indented_with_tabs() -> None:
    root = yaml_nodes.read('{\n\t"static_resources": {\n\t\t"a": "\\u00e9"\n\t}\n}', "x.json")
    assert yaml_nodes.text(yaml_nodes.get(root, "static_resources", "a")) == "é"


def test_keys_are_found_in_either_spelling() -> None:
    root = yaml_nodes.read("staticResources: {useOriginalDst: 1, name: 2}", "x.yaml")
    assert yaml_nodes.text(yaml_nodes.get(root, "static_resources", "use_original_dst")) == "1"
    assert yaml_nodes.text(yaml_nodes.get(root, "static_resources", "name")) == "2"
    assert yaml_nodes.get(root, "static_resources", "name", "deeper") is None


def test_aliases_are_followed_and_each_mapping_is_yielded_once() -> None:
    root = yaml_nodes.read("a: &x {k: {f: 1}}\nb: *x\nc: [*x, {g: 2}]\n", "x.yaml")
    assert yaml_nodes.text(yaml_nodes.get(root, "b", "k", "f")) == "1"
    assert [key for key, _ in yaml_nodes.mappings(root)] == ["", "a", "k", "c"]


@pytest.mark.parametrize("written", ["true", "True", "yes", "on", "y", "TRUE"])
def test_truth_has_many_names(written: str) -> None:
    root = yaml_nodes.read(f"a: {written}\nb: false", "x.yaml")
    assert yaml_nodes.truth(yaml_nodes.get(root, "a"), default=False)
    assert not yaml_nodes.truth(yaml_nodes.get(root, "b"), default=True)
    assert yaml_nodes.truth(yaml_nodes.get(root, "c"), default=True)


def test_null_is_no_text() -> None:
    root = yaml_nodes.read("a: null\nb: ~\nc:\nd: 'null'", "x.yaml")
    assert [yaml_nodes.text(yaml_nodes.get(root, key)) for key in "abcd"] == [None, None, None, "null"]


def test_putting_removing_and_appending_make_what_is_not_there() -> None:
    root = yaml_nodes.read("staticResources: null", "x.yaml")
    yaml_nodes.append(
        yaml_nodes.child_mapping(root, "static_resources"), "listeners", yaml_nodes.compose({"name": "l"})
    )
    yaml_nodes.put(root, "admin", yaml_nodes.compose(1))
    yaml_nodes.put(root, "admin", yaml_nodes.compose({"a": [True, None]}))
    yaml_nodes.remove(root, "nothing")
    assert yaml.safe_load(yaml_nodes.write(root)) == {
        "static_resources": {"listeners": [{"name": "l"}]},
        "admin": {"a": [True, None]},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("n", False), ("010", 8), ("0x1f", 31), ("~", None), ("", None), ("0.5", "0.5"), ("1e3", "1e3"),
        ("'1'", "1"), ('"yes"', "yes"), ("-7", -7), ("9007199254740993", "9007199254740993"), ("2020-01-01",) * 2,
    ],
)  # fmt: skip
def test_a_scalar_becomes_in_json_what_envoy_reads_in_yaml(text: str, value: object) -> None:
    root = yaml_nodes.read(f"a: {text}\n", "x.yaml")
    assert json.loads(yaml_nodes.write_json(root, from_json=False)) == {"a": value}


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_comes_through_as_it_is(value: object) -> None:
    root = yaml_nodes.read(json.dumps({"a": value}), "x.json")
    assert json.loads(yaml_nodes.write_json(root, from_json=True)) == {"a": value}


def test_the_last_of_two_equal_keys_counts_and_ignored_ones_are_left_out() -> None:
    root = yaml_nodes.read("a: 1\na: 2\n!ignore b: 3\n", "x.yaml")
    assert json.loads(yaml_nodes.write_json(root, from_json=False)) == {"a": 2}


AROUND = st.sampled_from(["{}", "key: {}", 'key: "{}"', '{{"a": "{}"'])


@given(damaged_keys(), st.sampled_from(["a.yaml", "a.json"]), AROUND)
def test_no_message_has_a_part_of_a_key_that_stands_in_the_document(
    drawn: tuple[bytes, bytes], name: str, around: str
) -> None:
    key, content = drawn
    said = ""
    try:
        yaml_nodes.read(around.format(content.decode("latin-1")), name)
    except BadInput as error:
        said = str(error)
    assert leaks(key, said) == []


def test_a_copy_outlives_the_tree_that_is_taken_apart() -> None:
    """Also for nodes shared by an alias: a list of allowed paths that became empty would allow all."""
    root = yaml_nodes.read("a: &x [{prefix: /stats}]\nb: *x\n", "x.yaml")
    kept = yaml_nodes.copied(yaml_nodes.get(root, "b") or root)
    yaml_nodes.take_apart(root)
    assert yaml_nodes.get(root, "a") is None
    assert [yaml_nodes.text(yaml_nodes.get(each, "prefix")) for each in yaml_nodes.items(kept)] == ["/stats"]


def test_a_copy_of_aliases_is_no_larger_than_they_are() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 15))
    root = yaml.compose(f"l0: &l0 x\n{levels}", Loader=yaml.CSafeLoader)
    assert root is not None
    assert yaml_nodes.copied(root) is not root


def test_unshared_each_alias_has_nodes_of_its_own_at_every_level() -> None:
    root = yaml_nodes.read("a: &a {b: &b [{c: x}], d: *b}\ne: *a\nf: [*a, *b]\n", "x.yaml")
    before = yaml_nodes.write_json(root, from_json=False)
    yaml_nodes.unshare(root)
    assert yaml_nodes.write_json(root, from_json=False) == before
    inner = [mapping for _, mapping in yaml_nodes.mappings(root) if yaml_nodes.get(mapping, "c") is not None]
    assert len({id(each) for each in inner}) == before.count('"c"') == 7
    yaml_nodes.put(inner[0], "c", yaml_nodes.compose("y"))
    assert yaml_nodes.write_json(root, from_json=False).count('"y"') == 1
