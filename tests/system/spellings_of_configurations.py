"""Configurations in many spellings of YAML and JSON, right and wrong."""

import json
from collections.abc import Iterator

from tests.system.spellings import Spelling

VALUE = "VALUE"
YAML = """static_resources:
  clusters:
  - name: c
    connect_timeout: 1s
    type: STATIC
    metadata: {filter_metadata: {m: {k: VALUE}}}
node: {id: a, cluster: b}
"""
JSON = json.dumps(
    {
        "static_resources": {
            "clusters": [
                {
                    "name": "c",
                    "connect_timeout": "1s",
                    "type": "STATIC",
                    "metadata": {"filter_metadata": {"m": {"k": VALUE}}},
                }
            ]
        },
        "node": {"id": "a", "cluster": "b"},
    }
)

_YAML_VALUES = [
    "v",
    "'a\x7fb'",
    "'a\x90b'",
    "'a\x07b'",
    "a\xa0b",
    "\U0001f600",
    "'a\ufeffb'",
    "'a\u2028b'",
    "'a\ufffeb'",
    "&x v, l: *x",
    "*nope",
    "&x v, l: &x w, m: *x",
    "!!str 1",
    "!!int '1'",
    "!foo v",
    "! 12",
    "!!float 1",
    "!!null ''",
    "v, <<: {a: b}",
    "v, k: w",
    "v, null: w",
    "v, '': w",
    "v, 1: w",
    "v, true: w",
    "v, [a]: b",
    "v, ? {a: b} : c",
    "v, l",
    "[1,]",
    "[1,,2]",
    "[,1]",
    "v,",
    ".nan",
    ".inf",
    "123456789012345678901234567890",
    "010",
    "0o10",
    "0x1F",
    "0b11",
    "1:30",
    "1_000",
    "2001-01-01",
    "1.5",
    "1e3",
    "+1",
    "~",
    "yes",
    "=",
    r'"a\n\t\x41\u00e9\U0001F600\/\0"',
    r'"\q"',
    r'"\ud83d\ude00"',
    r'"\ud83d"',
    "'it''s'",
    '"a\n   b"',
    "v#c",
    "\tv",
    "'%'",
    "%a",
    "@a",
    "`a",
    "?a",
    "-a",
    "http://x:1",
    "a:",
    "'*'",
    "- a",
    "[}",
    '"a',
    "a: b",
    'v, "' + "k" * 1500 + '": w',
]
_JSON_VALUES = [
    '"v"',
    '"v","k":"w"',
    "NaN",
    "Infinity",
    "-Infinity",
    "nan",
    "123456789012345678901234567890",
    "1e5",
    "01",
    "+1",
    ".5",
    "1.",
    "0x1F",
    "-0",
    "1.5",
    "9223372036854775807",
    "18446744073709551615",
    "'v'",
    "'it\\'s'",
    "True",
    "null",
    '"v","":1',
    '"v","' + "k" * 5000 + '":1',
    '"a\x7fb"',
    '"a\x90b"',
    '"a\tb"',
    '"a\nb"',
    '"a\0b"',
    '"a\x07b"',
    r'"a\u0000b"',
    r'"\ud83d\ude00"',
    r'"\ud83d"',
    r'"\q"',
    r'"\/"',
    r'"\x41"',
    r'"\u12"',
    '"a\u2028b"',
    '"\U0001f600"',
    '"\ufffe"',
    "[1,]",
    "[1,,2]",
    "[,1]",
    "v",
    '"v",',
    "[" * 90 + "]" * 90,
]


def of_yaml() -> Iterator[Spelling]:
    """Return spellings of a bootstrap in YAML."""
    plain = YAML.replace(VALUE, "v")
    for value in _YAML_VALUES:
        yield f"YAML {value[:40]!r}", YAML.replace(VALUE, value).encode("utf-8", "surrogatepass")
    for name, before, behind in [
        ("a byte order mark", "\ufeff", ""),
        ("a line of dashes", "---\n", ""),
        ("an end", "", "...\n"),
        ("dashes at the end", "", "---\n"),
        ("another document", "", "---\nfoo: 1\n"),
        ("a document after the end", "", "...\n---\na: 1\n"),
        ("a comment after dashes", "", "---\n# x\n"),
        ("a version", "%YAML 1.2\n---\n", ""),
        ("a tag", "%TAG ! tag:x,2000:\n---\n", ""),
        ("nul at the end", "", "\0"),
        ("nul in a comment", "# a\0b\n", ""),
        ("escape in a comment", "# \x1b[0m\n", ""),
        ("delete at the end", "", "# \x7f\n"),
        ("bell at the end", "", "# \x07\n"),
        ("a bracket at the end", "", "]\n"),
        ("a long key", "", "x" * 1030 + ": 1\n"),
    ]:
        yield f"YAML with {name}", f"{before}{plain}{behind}".encode()
    for name, old, new in [
        ("crlf", "\n", "\r\n"),
        ("cr", "\n", "\r"),
        ("a tab for indentation", "  clusters", "\tclusters"),
        ("a tab behind", "clusters:", "clusters:\t"),
        ("a tab before a comment", "STATIC", "STATIC\t# c"),
        ("a line of tabs", "    type", "\t\n    type"),
        ("less indentation", "    type", "   type"),
        ("more indentation", "    type", "     type"),
    ]:
        yield f"YAML with {name}", plain.replace(old, new).encode()
    for wide in ("utf-16", "utf-32"):
        yield f"YAML in {wide}", plain.encode(wide)
    yield "YAML in latin-1", f"{plain}# \xe9\n".encode("latin-1")
    yield "YAML with a version to come", f"%YAML 1.3\n---\n{plain}".encode()
    yield "YAML with an unknown directive", f"%FOO bar\n---\n{plain}".encode()
    yield "YAML with a line end of 1978", f"{plain}# \x85\x90\n".encode()
    yield "comments alone", b"# x\n"
    yield "dashes alone", b"---\n"
    yield "a list", b"- a\n"
    yield "a word", b"a\n"
    yield "JSON in YAML", JSON.encode()
    yield "JSON with a comma too many in YAML", JSON.replace('"b"}', '"b",}').encode()


def of_json() -> Iterator[Spelling]:
    """Return spellings of a bootstrap in JSON."""
    for value in _JSON_VALUES:
        yield f"JSON {value[:40]!r}", JSON.replace(f'"{VALUE}"', value).encode("utf-8", "surrogatepass")
    plain = JSON.replace(VALUE, "v")
    for name, before, behind in [
        ("a byte order mark", "\ufeff", ""),
        ("a comment", "", "// x"),
        ("a C comment", "/* x */", ""),
        ("a shell comment", "# x\n", ""),
        ("text behind", "", " x"),
        ("another document", "", JSON),
        ("nul at the end", "", "\0"),
        ("blanks", "  \n", "\n\n"),
        ("a form feed", "\f", ""),
        ("a space that breaks no line", "\xa0", ""),
        ("a bracket at the end", "", "}"),
    ]:
        yield f"JSON with {name}", f"{before}{plain}{behind}".encode()
    for name, old, new in [
        ("single quotes", '"', "'"),
        ("a name without quotes", '"node"', "node"),
        ("no colon", '"node":', '"node"'),
        ("no comma", ', "node"', ' "node"'),
        ("a comma at the end", '"b"}', '"b",}'),
        ("a comma at the end of a list", "}}}}]", "}}}},]"),
        ("two commas", "}}}}]", "}}}},,]"),
    ]:
        yield f"JSON with {name}", plain.replace(old, new).encode()
    yield "tabs", json.dumps(json.loads(plain), indent="\t").encode()
    for text in ("null", "[]", '"a"', "1", "true", plain[:-1]):
        yield f"JSON {text[:10]}", text.encode()
