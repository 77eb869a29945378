from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import BadInput
from agent.sidecar.config.bootstrap import read
from agent.sidecar.config.document import load, merge, parse
from tests.mutations import damaged_keys, leaks
from tests.sidecar import cases_texts


def why_not(text: str, name: str = "it.yaml") -> str:
    try:
        parse(text, name)
    except BadInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", cases_texts.TAKEN)
def test_what_envoy_takes_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.yaml").write_text(text)
    read(str(tmp_path / "it.yaml"), None)


@pytest.mark.parametrize("text", cases_texts.REFUSED)
def test_what_envoy_refuses_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(BadInput):
        read(str(tmp_path / "it.yaml"), None)


def test_plain_scalars_are_what_envoy_takes_them_for() -> None:
    text = "a: n\nb: 010\nc: 0x1F\nd: 0.5\ne: '5'\nf: ~\ng: Off\nh: oFf\ni: -7\nj: |\n  5\nk: 9007199254740993"
    assert parse(text, "it") == {
        "a": False, "b": 8, "c": 31, "d": "0.5", "e": "5", "f": None, "g": False, "h": "oFf", "i": -7, "j": "5\n",
        "k": "9007199254740993",
    }  # fmt: skip


def test_names_of_fields_have_two_spellings_and_those_of_metadata_have_one() -> None:
    text = "statPrefix: x\nnode: {metadata: {aB: 1}}\nipv4_compat: true\ntypedConfig: {'@type': kind, statPrefix: z}"
    assert parse(text, "it") == {
        "stat_prefix": "x",
        "node": {"metadata": {"aB": 1}},
        "ipv4_compat": True,
        "typed_config": {"@type": "kind", "stat_prefix": "z"},
    }


def test_aliases_stand_for_what_they_name() -> None:
    assert parse("'a': &x {b: [1]}\nc: *x\n!ignore d: e", "it") == {"a": {"b": [1]}, "c": {"b": [1]}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("[]", "its root is not a mapping"),
        ("a: b: c", "line 1, column 5: "),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key a occurs twice"),
        ("aB: 1\na_b: 2", "the key a_b occurs twice"),
        ("a: 1\n---\nb: 2", "line 2, column 1: it holds more than one document"),
        ("a: *b", "line 1, column 4: the alias b has no anchor"),
        ("a: &b [*b]", "the alias b has no anchor before it"),
        ("? [a]\n: b", "line 1, column 3: a key is not a plain word"),
        ("a:\n\t- b", "line 2, column 1: "),
        ("a: \0", "it"),
        ('a: "\\ud800"', "it"),
        ("a: " + "[" * 5000, "nested more than 100 levels"),
        ("\n".join([f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9 or ['x'])}]" for n in range(1, 10)]), "no anchor"),
        ("a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)),
         "it holds more than"),
    ],
)  # fmt: skip
def test_the_reason_says_where(text: str, why: str) -> None:
    found = why_not(text)
    assert found.startswith("cannot read it.yaml: ")
    assert why in found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "line 1, column 2: "),
        ('{"a": 1, "a": 2}', "the key a occurs twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[" * 100_000, "nested too deep"),
        ("null", "it is empty"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_json_is_read_as_json(text: str, why: str) -> None:
    assert why in why_not(text, "it.json")


def test_tabs_and_numbers_of_json_are_its_own() -> None:
    assert parse('{\t"a": 0.5,\n\t"b": "n"}', "it.json") == {"a": 0.5, "b": "n"}


def test_files_that_cannot_be_read_are_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    with pytest.raises(BadInput, match=r"cannot read .*it.yaml: No such file"):
        load(str(path))
    path.write_bytes(b"a: \xff")
    with pytest.raises(BadInput, match="byte 3 is not UTF-8"):
        load(str(path))
    with pytest.raises(BadInput, match="protobuf's own formats are not supported by sidecar"):
        load(str(tmp_path / "it.pb"))


def test_no_configuration_at_all_is_bad_input() -> None:
    with pytest.raises(BadInput, match="name a file with --config-path"):
        read(None, None)


# --config-yaml merged over the file


@pytest.mark.parametrize(
    ("under", "over", "merged"),
    [
        ("a: 1", "b: 2", "{a: 1, b: 2}"),
        ("a: x", "a: y", "a: y"),
        ("a: {b: 1, c: 2}", "a: {c: 3}", "a: {b: 1, c: 3}"),
        ("a: [1, 2]", "a: [3]", "a: [1, 2, 3]"),
        ("a: x", "a: ''", "a: x"),  # for protobuf, a field with its default value is not set
        ("a: x", "a: ~", "a: x"),
        ("a: {'@type': t, b: 1}", "a: {'@type': t, c: 2}", "a: {'@type': t, c: 2}"),
        ("metadata: {a: {b: 1}, c: 2}", "metadata: {a: {d: 3}}", "metadata: {a: {d: 3}, c: 2}"),
        ("stats_flush_interval: 7s", "stats_flush_interval: 0.5s", "stats_flush_interval: 7.5s"),
        ("stats_flush_interval: 7.25s", "stats_flush_interval: 8s", "stats_flush_interval: 8.25s"),
        ("stats_flush_interval: 7s", "stats_flush_interval: 8", "stats_flush_interval: 8"),
        ("a: {pipe: {path: x}}", "a: {socket_address: {address: y}}", "a: {socket_address: {address: y}}"),
        ("a: {text_format: x}", "a: {json_format: {}}", "a: {json_format: {}}"),
    ],
)
def test_one_document_is_laid_over_another(under: str, over: str, merged: str) -> None:
    assert merge(parse(under, "a"), parse(over, "b")) == parse(merged, "c")


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text("node: {id: file, cluster: c}\nstats_flush_interval: 7s")
    made = read(str(tmp_path / "it.yaml"), "node: {id: line}")
    assert (made.node_id, made.node_cluster, made.stats_flush_interval) == ("line", "c", 7.0)
    assert read(str(tmp_path / "it.yaml"), None, node="flag").node_id == "flag"
    with pytest.raises(BadInput, match="cannot read --config-yaml: "):
        read(None, "[")


@given(damaged_keys(), st.sampled_from(["it.yaml", "it.json"]), st.sampled_from(["{}", "key: {}", 'key: "{}"']))
def test_no_message_has_a_part_of_a_key_that_stands_in_the_document(
    drawn: tuple[bytes, bytes], name: str, around: str
) -> None:
    key, content = drawn
    assert leaks(key, why_not(around.format(content.decode("latin-1")), name)) == []


# Limits and odd documents


@pytest.mark.parametrize(("levels", "is_good"), [(100, True), (101, False)])
def test_a_document_has_100_levels_at_most(levels: int, is_good: bool) -> None:
    why = why_not("a:\n  " + "[" * (levels - 1) + "]" * (levels - 1))
    assert (why == "") is is_good
    assert is_good or ("line 2, column " in why and "100 levels" in why)


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        (f"a: [{','.join('x' * 98)}]", True),  # a mapping, a list, and 98 texts
        (f"a: [{','.join('x' * 99)}]", False),
        (f"a: &a [{','.join('x' * 40)}]\nb: *a", True),
        (f"a: &a [{','.join('x' * 40)}]\nb: *a\nc: *a", False),
        ("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b]", True),
        ("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b,*b,*b]", False),
        ("a: &a {x: 1}\nb: [" + ",".join(["*a"] * 20) + "]", True),
        ("a: &a {x: 1}\nb: [" + ",".join(["*a"] * 60) + "]", False),
    ],
)
def test_what_aliases_stand_for_counts(monkeypatch: pytest.MonkeyPatch, text: str, is_good: bool) -> None:
    monkeypatch.setattr("agent.sidecar.config.document._LARGEST", 100)
    assert (why_not(text) == "") is is_good


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("'a': &x 5\nb: *x\nc: &x n\nd: *x", {"a": 5, "b": 5, "c": False, "d": False}),
        ("'a': &x [1]\nb: &x {c: 2}\nd: *x", {"a": [1], "b": {"c": 2}, "d": {"c": 2}}),
        ("a: ! 5", {"a": "5"}),
        ("aList: [{bField: [{cField: 1}]}]", {"a_list": [{"b_field": [{"c_field": 1}]}]}),
        ("Abc: 1\nabC_d: 2\na_B: 3\nABC: 4\naBC: 5", {"Abc": 1, "abC_d": 2, "a_B": 3, "ABC": 4, "a_b_c": 5}),
        ("!ignore a: {b: [1]}\n!ignore c: 1\nd: {!ignore e: 1}", {"d": {}}),
        ("json_format: {aB: {cD: 1}}", {"json_format": {"aB": {"cD": 1}}}),
    ],
)
def test_odd_documents_have_one_meaning(text: str, tree: object) -> None:
    assert parse(text, "it") == tree


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &x 1\nb: &x [*x]", "the alias x has no anchor"),
        ("a: {*x : 1}", "a key is not a plain word"),
        ("a: &x 1\n*x : 2", "a key is not a plain word"),
        ("a: *\U0001f600", "line 1, column 5"),
    ],
)
def test_a_loop_or_a_key_that_is_no_word_is_told(text: str, why: str) -> None:
    assert why in why_not(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [('{"a": 1, "b": 1, "b": 2}', "the key b occurs"), ('{"x y=%": 1, "x y=%": 2}', ": a key occurs")],
)
def test_the_key_that_is_there_twice_is_named_if_it_may_be(text: str, named: str) -> None:
    assert named in why_not(text, "it.json")


@pytest.mark.parametrize("text", ["a: \0", "a: \x07", "a: [", "a: 1\n---\nb: 2", '"'])
def test_every_reason_has_a_next_step(text: str) -> None:
    assert why_not(text).endswith("; correct it")


@pytest.mark.parametrize(
    ("under", "over", "merged"),
    [
        ("a: [1]", "a: x", "a: x"),
        ("a: x", "a: [1]", "a: [1]"),
        ("a: {b: 1}", "a: []", "a: []"),
        ("stats_flush_interval: 7s", "stats_flush_interval: ~", "stats_flush_interval: 7s"),
        ("stats_flush_interval: 7s", "stats_flush_interval: 8s", "stats_flush_interval: 8s"),
        ("stats_flush_interval: 7s", "stats_flush_interval: 0s", "stats_flush_interval: 7s"),
        ("a: 1", "stats_flush_interval: 8s", "{a: 1, stats_flush_interval: 8s}"),
        ("a: {pipe: {path: x}, c: 1}", "a: {b: 2}", "a: {pipe: {path: x}, c: 1, b: 2}"),
        ("a: {pipe: {path: x}, c: 1}", "a: {socket_address: {}}", "a: {socket_address: {}, c: 1}"),
        ("json_format: {a: {b: 1}, c: 2}", "json_format: {a: {d: 3}}", "json_format: {a: {d: 3}, c: 2}"),
        ("a: ~", "a: false", "a: false"),
        ("a: true", "a: false", "a: true"),
    ],
)
def test_more_is_merged_as_protobuf_merges_it(under: str, over: str, merged: str) -> None:
    assert merge(parse(under, "a"), parse(over, "b")) == parse(merged, "c")
