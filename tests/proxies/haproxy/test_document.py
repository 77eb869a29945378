"""What a configuration names is found, and what the agent cannot run is refused with its line."""

import pytest

from agent.certificates.references import Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.proxies.haproxy.document import Document, parse, quoted


def parsed(text: str) -> Document:
    """Parse a configuration in /etc/haproxy, run from /run."""
    return parse(text, "/etc/haproxy/h.cfg", "/run", {"CERTS": "/env"})


def files(text: str) -> list[tuple[str, str]]:
    """Return keyword and path of each file."""
    return [(each.keyword, each.path) for each in parsed(text).files]


def test_files_of_binds_and_servers_are_found() -> None:
    text = """\
global
    crt-base /crt
    ca-base /ca
frontend web
    bind :443 ssl crt a.pem crt "$CERTS/b.pem" name crt ca-file roots.pem crl-file /x/c.crl crt-list list.txt
    errorfile 503 sorry.http
    errorfile 408 /dev/null
backend app
    server one 10.0.0.1:443 ssl crt c.pem ca-file @system-ca
    default-server ca-file d.pem
"""
    assert files(text) == [
        ("crt", "/crt/a.pem"),
        ("crt", "/env/b.pem"),
        ("ca-file", "/ca/roots.pem"),
        ("crl-file", "/x/c.crl"),
        ("crt-list", "/run/list.txt"),
        ("errorfile", "/run/sorry.http"),
        ("crt", "/crt/c.pem"),
        ("ca-file", "/ca/d.pem"),
    ]


def test_roles_and_places() -> None:
    text = "frontend web\n    bind :443 ssl crt /a\n"
    (found,) = parsed(text).files
    assert (found.role, found.line, found.serves) == (Role.CHAIN, 2, True)
    assert text[found.word.start : found.word.end] == "/a"


@pytest.mark.parametrize(
    ("address", "places"),
    [
        ("127.0.0.1:443", ["tcp://127.0.0.1:443"]),
        (":443,:444", ["tcp://0.0.0.0:443", "tcp://0.0.0.0:444"]),
        ("*:443-445", ["tcp://0.0.0.0:443", "tcp://0.0.0.0:444", "tcp://0.0.0.0:445"]),
        ("[::1]:443", ["tcp://[::1]:443"]),
        (":::443", ["tcp://[::]:443"]),
        ("ipv6@:443", ["tcp://[::]:443"]),
        ("ipv4@1.2.3.4:443", ["tcp://1.2.3.4:443"]),
        ("/run/web.sock", []),
        ("abns@web", []),
        ("fd@5", []),
        ("web.example:443", []),
    ],
)
def test_where_a_tls_client_can_look(address: str, places: list[str]) -> None:
    found = parsed(f"frontend web\n bind {address} ssl crt /a\n").binds
    assert [place.address for bind in found for place in bind.places] == places


@pytest.mark.parametrize("word", ["accept-proxy", "strict-sni", "namespace other"])
def test_where_a_plain_client_would_be_turned_away_nobody_looks(word: str) -> None:
    assert parsed(f"frontend web\n bind :443 ssl crt /a {word}\n").binds == []


def test_a_listener_without_tls_shows_no_certificate() -> None:
    assert parsed("frontend web\n bind :80 crt /a\n").binds == []


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("peers mine", 1, "same local peer"),
        ("global\nprogram x", 2, "services of their own"),
        ("frontend x\n bind quic4@:443 ssl crt /a", 2, "QUIC"),
        ("crt-store x", 1, "crt-store"),
        ('frontend x\n setenv x 1\n bind :1 ssl crt "${LIST[*]}"', 3, "write each path"),
    ],
)
def test_what_the_agent_cannot_run_is_refused(text: str, line: int, why: str) -> None:
    with pytest.raises(BadInput, match=rf"^cannot use /etc/haproxy/h\.cfg: line {line}, .*{why}"):
        parse(text, "/etc/haproxy/h.cfg", "/run", {"LIST": "/a /b"})


def test_a_null_byte_is_refused() -> None:
    with pytest.raises(BadInput, match="null byte"):
        parsed("global\0")


def replaced(text: str) -> str:
    """Return the text with the replacements."""
    for each in sorted(parsed(text).replaced, key=lambda each: -each.start):
        text = text[: each.start] + each.text + text[each.end :]
    return text


def test_what_would_take_the_process_out_of_the_agents_hands_becomes_a_comment() -> None:
    text = "global\n  daemon # why\n  master-worker no-exit-on-failure\n  pidfile /x\n  maxconn 5\n"
    lines = replaced(text).splitlines()
    assert [line.split()[0] for line in lines] == ["global", "#", "#", "#", "maxconn"]
    assert lines[1].endswith("# why")


@pytest.mark.parametrize(
    ("word", "directory"),
    [("config", "/etc/haproxy"), ("parent", "/etc"), ("origin /srv", "/srv"), ("current", "/run")],
)
def test_default_path_decides_where_relative_paths_start(word: str, directory: str) -> None:
    text = f"global\n default-path {word}\nfrontend x\n bind :1 ssl crt a.pem\n"
    assert files(text) == [("crt", f"{directory}/a.pem")]
    copy = replaced(text)
    assert copy == text or f"default-path origin {directory}\n" in copy


def test_consoles_extra_files_and_keys() -> None:
    found = parsed(
        "global\n stats socket /x mode 600\n ssl-load-extra-files key bundle\n ssl-load-extra-del-ext\n"
        "# agent: key chain.pem 'the key.pem'\n"
    )
    assert found.consoles == {"/x"}
    assert found.companion("/a.crt", ".key") == "/a.key"
    assert found.companion("/a.pem", ".key") == "/a.pem.key"
    assert found.companion("/a.crt", ".ocsp") is None
    assert found.keys == {"/run/chain.pem": "/run/the key.pem"}


def test_no_extra_files() -> None:
    found = parsed("global\n ssl-load-extra-files none\n")
    assert found.companion("/a", ".key") is None
    assert found.extra == frozenset()


@pytest.mark.parametrize(("text", "word"), [("/dev/fd/3", "/dev/fd/3"), ("a b", "'a b'"), ("it's", "'it'\\''s'")])
def test_a_text_is_quoted_only_where_it_must_be(text: str, word: str) -> None:
    assert quoted(text) == word


def test_an_address_of_a_bind_is_one_of_the_stores() -> None:
    (bind,) = parsed("frontend x\n bind 127.0.0.1:1 ssl crt /a\n").binds
    assert bind.places == (ListenAddress("tcp://127.0.0.1:1", ""),)
