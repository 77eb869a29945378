"""A configuration is read with all that it includes."""

import pytest

from agent.core.errors import BadInput
from agent.proxies.nginx.sources import Sources, directory_of


def sources(text: str, **resources: str) -> Sources:
    """Return the sources of a configuration in /etc/nginx; `a__b` stands for the included `/etc/nginx/a.b`."""
    found = {f"/etc/nginx/{name.replace('__', '.')}": content.encode() for name, content in resources.items()}
    return Sources(text, "/etc/nginx/nginx.conf", "/etc/nginx", found)


def test_what_is_included_and_not_read_yet_is_named_once() -> None:
    text = "include mime.types; http { include /x/*.conf; include mime.types; }"
    assert sources(text).unread == ["/etc/nginx/mime.types", "/x/*.conf"]
    assert Sources(
        text, "n", "/etc/nginx", {"/etc/nginx/mime.types": b"", "/x/*.conf": b"/x/a.conf\n/x/d/"}
    ).unread == ["/x/a.conf"]


def test_directives_come_in_order_with_the_blocks_around_them() -> None:
    found = sources("a; http { include b.conf; c; }", b__conf="server { d; }").walk()
    assert [(each.directive.name, each.context, each.source.name) for each in found] == [
        ("a", (), "/etc/nginx/nginx.conf"),
        ("http", (), "/etc/nginx/nginx.conf"),
        ("server", ("http",), "/etc/nginx/b.conf"),
        ("d", ("http", "server"), "/etc/nginx/b.conf"),
        ("c", ("http",), "/etc/nginx/nginx.conf"),
    ]


def test_a_file_that_is_included_twice_is_two_sources() -> None:
    found = [each.source for each in sources("include b.conf; include b.conf;", b__conf="d;").walk()]
    assert found[0] is not found[1]


def test_includes_in_a_circle_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^cannot use /etc/nginx/a.conf: /etc/nginx/b.conf includes it, .*remove"):
        sources("include a.conf;", a__conf="include b.conf;", b__conf="include a.conf;")


def test_a_fan_of_circles_is_refused_at_once() -> None:
    names = "\n".join(f"/x/{number}.conf" for number in range(20))
    resources = {"/x/*.conf": names.encode(), **dict.fromkeys(names.split("\n"), b"include /x/*.conf;")}
    with pytest.raises(BadInput, match="included by itself"):
        Sources("include /x/*.conf;", "n", "/", resources)


def test_an_included_file_that_is_no_text() -> None:
    with pytest.raises(BadInput, match=r"^cannot read /x: byte 1 is not UTF-8"):
        Sources("include /x;", "n", "/", {"/x": b"a\xf6"})


def test_an_included_file_that_does_not_parse_is_named() -> None:
    with pytest.raises(BadInput, match=r"^cannot use /etc/nginx/b.conf: line 2 "):
        sources("include b.conf;", b__conf="\nserver {")


@pytest.mark.parametrize(
    ("path", "absolute"),
    [("/a", "/a"), ("a", "/etc/nginx/a"), ("../a", "/etc/a"), ("$a/b", "$a/b"), ("a$b", "/etc/nginx/a$b")],
)
def test_relative_paths_start_from_the_directory_of_the_configuration(path: str, absolute: str) -> None:
    assert sources("").absolute(path) == absolute


def test_the_directory_of_a_relative_name_is_below_the_working_directory() -> None:
    assert directory_of("conf/nginx.conf", "/srv") == "/srv/conf"
    assert directory_of("/etc/nginx/nginx.conf", "/srv") == "/etc/nginx"
