from pathlib import Path

import pytest

from agent.sidecar.config.addresses import address, content, filename, is_number
from agent.sidecar.model import Pipe, SocketAddress
from tests.sidecar.config.messages import Read, read, taken

HOLDER = "envoy.config.endpoint.v3.Endpoint"
REPLY = "envoy.config.route.v3.DirectResponseAction"
CERTIFICATE = "envoy.extensions.transport_sockets.tls.v3.TlsCertificate"


def at(host: object, port: object = 80, **more: object) -> Read:
    return read(address, {"address": {"socket_address": {"address": host, "port_value": port, **more}}}, HOLDER)


def on(path: object, **more: object) -> Read:
    return read(address, {"address": {"pipe": {"path": path, **more}}}, HOLDER)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:0", "::"),
        ("2001:DB8:0::0001", "2001:db8::1"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("::FFFF:102:304", "::ffff:1.2.3.4"),
    ],
)
def test_a_host_of_numbers_has_one_spelling(host: str, canonical: str) -> None:
    assert at(host) == (SocketAddress(canonical, 80), "")


@pytest.mark.parametrize(
    "host", ["localhost", "1.2.3", "01.2.3.4", "1.2.3.4.5", "1.2.3.4/8", "[::1]", " 1.2.3.4", "::g"]
)
def test_a_name_is_no_address_of_a_listener(host: str) -> None:
    value, why = at(host)
    assert value.host == host
    assert why.startswith("m.address.socket_address.address: ")
    assert host in why


def test_a_name_is_an_address_where_it_is_resolved() -> None:
    tree = {"address": {"socket_address": {"address": "a.example", "port_value": 1}}}
    assert taken(lambda m: address(m, names=True), tree, HOLDER) == SocketAddress("a.example", 1)


@pytest.mark.parametrize(
    ("port", "is_good"), [(0, True), (65535, True), ("80", True), (65536, False), (-1, False), ("x", False)]
)
def test_a_port_has_16_bits(port: object, is_good: bool) -> None:
    value, why = at("127.0.0.1", port)
    assert (why == "") is is_good
    assert value.port == (int(str(port)) if is_good else 0)


def test_a_port_and_a_host_are_required() -> None:
    assert at("127.0.0.1", protocol=1).why == (
        "m.address.socket_address.protocol: UDP is not supported by sidecar, only TCP"
    )
    for inner, missing in (({"address": "127.0.0.1"}, "port_value"), ({"port_value": 1}, "address")):
        why = read(address, {"address": {"socket_address": inner}}, HOLDER).why
        assert why == f"m.address.socket_address.{missing}: it is missing"
    assert "m.address.socket_address.address: it is empty" in at("").why


@pytest.mark.parametrize(
    ("protocol", "is_good"), [("TCP", True), (0, True), ("UDP", False), (1, False), ("SCTP", False)]
)
def test_only_tcp_is_supported(protocol: object, is_good: bool) -> None:
    assert (at("127.0.0.1", protocol=protocol).why == "") is is_good


def test_version_4_is_taken_on_a_socket_of_version_6_if_asked() -> None:
    assert at("::", ipv4_compat=True).value.dual_stack is True
    assert at("::").value.dual_stack is False


@pytest.mark.parametrize("tree", [{}, {"pipe": {"path": "/x"}, "socket_address": {"address": "::1", "port_value": 1}}])
def test_an_address_is_one_of_two_kinds(tree: dict[str, object]) -> None:
    value, why = read(address, {"address": tree}, HOLDER)
    assert why.startswith("m.address")
    assert why.count(";") == 0
    assert isinstance(value, SocketAddress)


@pytest.mark.parametrize("holder", [{}, {"address": 5}])
def test_without_an_address_one_that_is_never_used_stands_in(holder: dict[str, object]) -> None:
    value, why = read(address, holder, HOLDER)
    assert value == SocketAddress("127.0.0.1", 0)
    assert why.startswith("m.address: ")


def test_an_address_may_stand_in_another_field() -> None:
    why = read(lambda m: address(m, "admin"), {}, HOLDER).why
    assert why == "m.admin: it is missing"


# Paths


@pytest.mark.parametrize(("path", "mode"), [("/run/s", 0), ("relative", 0o777), ("@abstract", 0), ("@", 0)])
def test_a_path_may_have_a_mode(path: str, mode: int) -> None:
    assert on(path, mode=mode) == (Pipe(path, mode), "")


@pytest.mark.parametrize(
    ("path", "is_good"), [("x" * 107, True), ("x" * 108, False), ("é" * 53, True), ("é" * 54, False)]
)
def test_a_path_has_107_bytes_at_most(path: str, is_good: bool) -> None:
    why = on(path).why
    assert (why == "") is is_good
    assert is_good or "107" in why


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"path": ""}, "path"),
        ({}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"path": "@x", "mode": 0o600}, "mode"),
        ({"path": "/x", "mode": 0o1000}, "mode"),
        ({"path": "/x", "mode": "rw"}, "mode"),
    ],
)
def test_a_path_that_cannot_be_is_told(fields: dict[str, object], field: str) -> None:
    why = read(address, {"address": {"pipe": fields}}, HOLDER).why
    assert why.startswith(f"m.address.pipe.{field}: ")
    assert why.count(";") == 0


@pytest.mark.parametrize(("host", "numeric"), [("1.2.3.4", True), ("::1", True), ("localhost", False), ("", False)])
def test_numbers_need_no_resolving(host: str, numeric: bool) -> None:
    assert is_number(host) is numeric


# Files that are named


def named(source: object) -> Read:
    return read(lambda m: filename(m, "private_key"), {"private_key": source}, CERTIFICATE)


def test_a_file_is_named_and_not_read() -> None:
    assert named({"filename": "/no/such"}) == ("/no/such", "")
    assert read(lambda m: filename(m, "private_key"), {}, CERTIFICATE) == (None, "")
    why = read(lambda m: filename(m, "private_key", required=True), {}, CERTIFICATE).why
    assert why == "m.private_key: it is missing"


@pytest.mark.parametrize("field", ["inline_string", "inline_bytes"])
def test_content_in_place_of_a_file_is_not_supported(field: str) -> None:
    value, why = named({field: "secret"})
    assert value is None
    assert why.startswith(f"m.private_key.{field}: not supported by sidecar")
    assert "secret" not in why


@pytest.mark.parametrize("source", [{}, {"filename": ""}, {"filename": "a\0b"}, {"filename": 5}])
def test_a_file_without_a_name_is_told(source: dict[str, object]) -> None:
    assert named(source).why.startswith("m.private_key.filename: ")


# Content


def body(source: object) -> Read:
    return read(lambda m: content(m, "body"), {"body": source}, REPLY)


def test_content_is_a_text_or_bytes_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0\xff")
    assert body({"inline_string": "é"}) == ("é".encode(), "")
    assert body({"inline_string": ""}) == (b"", "")
    assert body({"filename": str(tmp_path / "f")}) == (b"\0\xff", "")
    assert read(lambda m: content(m, "body"), {}, REPLY) == (b"", "")


@pytest.mark.parametrize(
    ("text", "data"),
    [("aGk=", b"hi"), ("aGk", b"hi"), ("", b""), ("-_8=", b"\xfb\xff"), ("+/8=", b"\xfb\xff"), ("AAAA", b"\0\0\0")],
)
def test_bytes_are_base64_of_either_alphabet(text: str, data: bytes) -> None:
    assert body({"inline_bytes": text}) == (data, "")


@pytest.mark.parametrize("text", ["a", "a b=", "aGk*", "aGk\n", "a=Gk", "é", "aGkh\n", "aGk=*"])
def test_other_bytes_are_told(text: str) -> None:
    assert body({"inline_bytes": text}) == (b"", "m.body.inline_bytes: it is not base64")


@pytest.mark.parametrize("name", ["no-such", "", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}" if name else ""
    value, why = body({"filename": path})
    assert value == b""
    assert why.startswith("m.body.filename: ")
    assert not path or path.rstrip(".") in why


@pytest.mark.parametrize("source", [{}, {"inline_string": "a", "filename": "b"}, 5])
def test_content_has_one_source(source: object) -> None:
    assert body(source).why.startswith("m.body")
