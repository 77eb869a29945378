"""The configuration tells its files and listeners, and makes the copy that an epoch runs from."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.proxies.interface import StaticListener, TlsListener
from tests.pki import Authority
from tests.proxies.nginx.configurations import accepts, loaded, memory, parsed, wants_nginx


def http(text: str) -> str:
    return f"events {{}} http {{ {text} }}"


def references(text: str, resources: Mapping[str, bytes] | None = None) -> list[Reference]:
    return parsed(text, resources).references


A = [Reference("/c/a.crt", Role.CHAIN, "/c/a.crt"), Reference("/c/a.key", Role.KEY, "/c/a.crt")]
TLS = "ssl_certificate /c/a.crt; ssl_certificate_key /c/a.key;"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (http(f"server {{ {TLS} }}"), A),
        (http(f"{TLS} server {{}} server {{}}"), A),
        (f"stream {{ server {{ {TLS} }} }}", A),
        (http('server { ssl_certificate "/c/a.crt"; ssl_certificate_key \'/c/a.key\'; }'), A),
        (http("server { ssl_certificate_key /c/a.key; ssl_certificate /c/a.crt; }"), A),
        (http("location / { proxy_ssl_certificate /c/a.crt; proxy_ssl_certificate_key /c/a.key; }"), A),
        (http("server { ssl_certificate data:$x; ssl_certificate_key engine:y:z; }"), []),
        (http("server { ssl_certificate $x; ssl_certificate_key $y; }"), []),
        (http('server { proxy_ssl_certificate ""; }'), []),
        (http("proxy_ssl_trusted_certificate ca;"), [Reference("/etc/nginx/ca", Role.BUNDLE, "/etc/nginx/ca")]),
        (http("server { ssl_conf_command Options PrioritizeChaCha; }"), []),
    ],
)  # fmt: skip
def test_references(text: str, expected: list[Reference]) -> None:
    assert sorted(references(text), key=str) == sorted(expected, key=str)


def test_commands_of_openssl_name_a_pair() -> None:
    commands = "ssl_conf_command certificate /c/a.crt; ssl_conf_command PrivateKey /c/a.key;"
    assert references(http(f"server {{ {TLS.replace('a.', 'b.')} {commands} }}"))[2:] == A


def test_two_pairs_of_one_server_are_paired_in_order() -> None:
    text = http(f"server {{ {TLS} ssl_certificate /c/b.crt; ssl_certificate_key /c/b.key; }}")
    groups = {each.path: each.group for each in references(text)}
    assert groups == {"/c/a.crt": "/c/a.crt", "/c/a.key": "/c/a.crt", "/c/b.crt": "/c/b.crt", "/c/b.key": "/c/b.crt"}


def test_a_pair_with_a_password_is_not_judged() -> None:
    """The agent does not know the password."""
    found = references(http(f"server {{ {TLS} ssl_password_file /c/p; }}"))
    assert {each.path: each.role for each in found} == dict.fromkeys(("/c/a.crt", "/c/a.key", "/c/p"), Role.OTHER)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (http("ssl_dhparam dh; ssl_trusted_certificate ca; server { listen 80; }"), 0),
        (http(f"ssl_dhparam dh; server {{ {TLS} }}"), 3),
        (http(f"{TLS} server {{ ssl_crl x; }}"), 3),
        (http(f"server {{ ssl_crl x; }} server {{ {TLS} }}"), 2),
        (http("server { ssl_certificate_key /c/a.key; }"), 0),
    ],
)
def test_files_of_a_server_without_a_certificate_are_not_read_by_nginx(text: str, count: int) -> None:
    assert len(references(text)) == count


MANY = http("server { ssl_certificate /c/$ssl_server_name/x.crt; ssl_certificate_key /c/${ssl_server_name}/x.key; }")
FILES = {"/c/*/x.crt": b"/c/a/x.crt\n/c/b/x.crt\n/c/alone/x.crt", "/c/*/x.key": b"/c/a/x.key\n/c/b/x.key"}


def test_names_with_variables_stand_for_the_pairs_that_match_them() -> None:
    assert parsed(MANY).unread == ["/c/*/x.crt", "/c/*/x.key"]
    assert parsed(MANY, FILES).unread == []
    assert references(MANY, FILES) == [
        Reference(f"/c/{name}/x.{end}", role, f"/c/{name}/x.crt")
        for name in "ab"
        for end, role in (("crt", Role.CHAIN), ("key", Role.KEY))
    ]


def test_one_key_for_certificates_with_a_variable() -> None:
    text = http("server { ssl_certificate /c/$x.crt; ssl_certificate_key /c/a.key; }")
    found = references(text, {"/c/*.crt": b"/c/1.crt\n/c/2.crt"})
    assert [(each.path, each.group) for each in found if each.role is Role.KEY] == [
        ("/c/a.key", "/c/1.crt"),
        ("/c/a.key", "/c/2.crt"),
    ]


# Listeners


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("80", "tcp://0.0.0.0:80"),
        ("*:80", "tcp://0.0.0.0:80"),
        ("127.0.0.1", "tcp://127.0.0.1:80"),
        ("127.0.0.1:8080 default_server", "tcp://127.0.0.1:8080"),
        ("[::]:443 ssl http2", "tcp://[::]:443"),
        ("[0::1]", "tcp://[::1]:80"),
        ("unix:/run/x.sock", "unix:///run/x.sock"),
    ],
)
def test_a_listener_has_the_spelling_of_its_socket(listen: str, address: str) -> None:
    found = parsed(http(f"server {{ listen {listen}; }}")).listeners
    assert [each.place.address for each in found] == [address]


@pytest.mark.parametrize("listen", ["localhost:80", "53 udp", "unix:relative"])
def test_other_listeners_are_known_from_their_sockets_only(listen: str) -> None:
    assert parsed(http(f"server {{ listen {listen}; }}")).listeners == []


def test_options_of_a_listener() -> None:
    made = parsed(http("server { listen 1 reuseport; listen [::]:2 ipv6only=off; }"))
    assert made.listeners == [
        StaticListener(ListenAddress("tcp://0.0.0.0:1"), reuse_port=True, dual_stack=False),
        StaticListener(ListenAddress("tcp://[::]:2"), reuse_port=False, dual_stack=True),
    ]


@pytest.mark.parametrize(
    ("names", "name"),
    [("a.test", "a.test"), ("_ *.x .y ~z w.* $v", None), ("*.x b.test c.test", "b.test"), ('""', None), ("", None)],
)
def test_a_client_sees_the_certificate_of_a_server_by_one_of_its_names(names: str, name: str | None) -> None:
    made = parsed(http(f"server {{ listen 443 ssl; server_name {names}; }}"))
    assert made.tls_listeners == [TlsListener(ListenAddress("tcp://0.0.0.0:443"), name)]


def test_a_server_in_an_included_file_has_listeners_too() -> None:
    text = http("include a; include a; server { include b; }")
    made = parsed(text, {"/etc/nginx/a": b"server { listen 1; }", "/etc/nginx/b": b"listen 2 ssl;"})
    assert [each.place.address for each in made.listeners] == ["tcp://0.0.0.0:1", "tcp://0.0.0.0:2"]


def test_a_thousand_servers_are_read_at_once() -> None:
    servers = "".join(f"server {{ listen 443 ssl; server_name n{number}.test; {TLS} }}\n" for number in range(2000))
    assert len(parsed(http(servers)).tls_listeners) == 2000


# What the agent cannot supervise


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\nmaster_process off;", "line 2, master_process: without a master"),
        (http("server {\n listen 443 quic; }"), "line 2, listen: the agent hands over no QUIC listener; remove it"),
        (http("include q;"), "cannot use /etc/nginx/q: line 1, listen"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        parsed(text, {"/etc/nginx/q": b"server { listen 443 quic; }"})


# Copies


def copy(text: str, files: Mapping[str, int], resources: Mapping[str, bytes] | None = None) -> str:
    """Return the copy of an epoch in /run/1, without the agent's own server."""
    made, _ = parsed(text, resources).copies(files.keys()).fill("/run/1", 1, files)
    before, _, after = made.partition('\n    server {\n        listen "unix:/run/1/ready";')
    return before + after.partition("return 200; }\n    }\n")[2]


def test_nothing_but_paths_changes() -> None:
    text = http(f"# comment\n server {{ listen 80; {TLS} location ~ ^/{{2}} {{ return 200 'a b'; }} }}").replace(
        "^/{2}", "^/x"
    )
    expected = text.replace("/c/a.crt;", '"/dev/fd/7";').replace("/c/a.key;", '"/dev/fd/8";')
    assert copy(text, {"/c/a.crt": 7, "/c/a.key": 8}) == expected


def test_a_file_that_is_not_held_keeps_its_path_which_is_absolute() -> None:
    text = http("server { ssl_certificate a.crt; ssl_certificate_key b.key; auth_basic_user_file users; }")
    found = copy(text, {})
    assert 'ssl_certificate "/etc/nginx/a.crt";' in found
    assert 'auth_basic_user_file "/etc/nginx/users";' in found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("auth_basic_user_file $x/y;", "auth_basic_user_file $x/y;"),
        ("auth_basic_user_file /x/y;", "auth_basic_user_file /x/y;"),
        ("js_import a from b.js;", 'js_import a from "/etc/nginx/b.js";'),
        ("js_import b.js;", 'js_import "/etc/nginx/b.js";'),
        ("root html;", "root html;"),
        ("daemon on;", "daemon on;"),
    ],
)
def test_relative_paths(before: str, after: str) -> None:
    assert copy(http(before), {}) == http(after)


def test_daemon_and_pid_are_the_agents() -> None:
    found = copy(
        "daemon on; user www-data;\npid /run/nginx.pid; include x; " + http(""), {}, {"/etc/nginx/x": b"pid b;"}
    )
    assert "on;" not in found
    assert "/run/nginx.pid" not in found
    assert "pid b" not in found
    assert "user www-data;" in found


def test_each_line_of_the_copy_has_its_origin() -> None:
    text = f"daemon on;\npid x;\n{http(f'include i;{chr(10)} server {{ {TLS} {chr(10)} oops; }}')}"
    resources = {"/etc/nginx/i": b"a;\nb;\n"}
    made = parsed(text, resources)
    written, _ = made.copies({"/c/a.crt"}).fill("/run/1", 1, {"/c/a.crt": 3})
    line = next(number for number, each in enumerate(written.split("\n"), start=1) if "oops" in each)
    assert made.located(line) == "/etc/nginx/nginx.conf:5"


def test_without_http_the_agent_adds_a_server_of_its_own() -> None:
    made = parsed("events {} stream { server { listen 80; } }")
    text, _ = made.copies(()).fill("/run/1", 1, {})
    assert not made.has_http
    assert text.count("http {") == 1


def test_names_with_variables_are_links_in_a_directory_named_by_its_content() -> None:
    files = {"/c/a/x.crt": 7, "/c/a/x.key": 8}
    copies = parsed(MANY, FILES).copies(files.keys())
    tree = copies.tree("/run/1", files)
    assert sorted(tree.values()) == ["/dev/fd/7", "/dev/fd/8"]
    text, _ = copies.fill("/run/1", 1, files)
    (chain,) = [path for path in tree if path.endswith("/a/x.crt")]
    directory = chain.removesuffix("/a/x.crt")
    assert f'"/run/1/{directory}/$ssl_server_name/x.crt"' in text
    assert copies.tree("/run/1", {**files, "/c/a/x.crt": 9}).keys().isdisjoint({chain})


def test_no_pushes() -> None:
    made = parsed(http(f"server {{ {TLS} }}"))
    assert made.pushable_files == frozenset()
    with pytest.raises(AssertionError):
        made.copies(()).fill_pushable("/run/1", 1, {}, as_json=False)


# The real NGINX

VALID = f"""
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    types {{ text/html html; }}
    map $host $x {{ default 0; "~^a{{2}}$" 1; }}
    include conf.d/*.conf;
    server {{
        listen 127.0.0.1:1 ssl;
        {TLS}
        if ($x = "1") {{ return 403; }}
        location ~ "^/x{{1,2}}$" {{ return 200 "${{host}} \\" ok\\n"; }}
    }}
}}
"""


@wants_nginx
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (("#", "#"), 0),
        (("return 403", "retur 403"), 11),
        (("map $host $x", "map $host"), 6),
        (("listen", "listen x y"), 9),
    ],
)
def test_nginx_accepts_the_copy_if_it_accepts_the_original(damage: tuple[str, str], line: int, tmp_path: Path) -> None:
    leaf = Authority.create("ca").issue(["a.test"])
    config = tmp_path / "nginx.conf"
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/a.conf").write_text("server {\n listen 127.0.0.1:2;\n}\n", encoding="ascii")
    for name, data in {"a.crt": leaf.chain_pem, "a.key": leaf.key_pem}.items():
        (tmp_path / name).write_bytes(data)
    config.write_text(VALID.replace("/c/", f"{tmp_path}/").replace(*damage, 1), encoding="ascii")
    made = loaded(config)
    files = {f"{tmp_path}/a.crt": memory(leaf.chain_pem), f"{tmp_path}/a.key": memory(leaf.key_pem)}
    text, _ = made.copies(files.keys()).fill(str(tmp_path), 1, files)
    (tmp_path / "copy").write_text(text, encoding="ascii")
    ok, said = accepts(config)
    ok_copy, said_copy = accepts(tmp_path / "copy")
    for descriptor in files.values():
        os.close(descriptor)
    assert (ok, ok_copy) == (not line, not line), said + said_copy
    if line:
        assert f"{config}:{line}" in said
        number = int(said_copy.split("/copy:")[1].split()[0])
        assert made.located(number) == f"{config}:{line}"
