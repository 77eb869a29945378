"""The files of a `crt-list` are found at their places."""

import pytest

from agent.proxies.haproxy.certificate_list import entries

TEXT = """\
# a comment
a.pem
  /abs/b.pem  [alpn h2 ca-file roots.pem crl-file /x.crl] *.example
c.pem[verify none]

d.pem !* # e.pem
f.pem [ca-file @system-ca]
"""


def test_files_and_places() -> None:
    found = list(entries(TEXT, "/crt", "/ca"))
    assert [(each.keyword, each.path, each.line) for each in found] == [
        ("crt", "/crt/a.pem", 2),
        ("crt", "/abs/b.pem", 3),
        ("ca-file", "/ca/roots.pem", 3),
        ("crl-file", "/x.crl", 3),
        ("crt", "/crt/c.pem", 4),
        ("crt", "/crt/d.pem", 6),
        ("crt", "/crt/f.pem", 7),
    ]
    assert [TEXT[each.start : each.end] for each in found] == [
        *("a.pem", "/abs/b.pem", "roots.pem", "/x.crl", "c.pem", "d.pem", "f.pem")
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "#a\n", "   \n"])
def test_nothing_is_found_in_nothing(text: str) -> None:
    assert list(entries(text, "/", "/")) == []
