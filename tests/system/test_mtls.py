"""TLS from a client's side, with both proxies: which clients are refused, by which alert, and the counters.

The tests assert Envoy's behaviour. The one documented difference: BoringSSL reports a certificate that is not valid yet
as expired, OpenSSL as bad.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.pki import Authority, Leaf
from tests.system.bootstrap import Json, Secured, listener, tls_chain
from tests.system.certificates import Mint, authority, serial
from tests.system.clients import TLS12, TLS13, Client
from tests.system.eventually import eventually
from tests.system.proxies import KINDS, Proxy, Running, needed, running
from tests.system.room import Room

HOUR = timedelta(hours=1)
VERSIONS = (TLS12, TLS13)
SERVED = {
    "downstream_cx_total": 1,
    "downstream_cx_destroy": 1,
    "ssl.handshake": 1,
    "http.http.downstream_rq_2xx": 1,
    "http.http.downstream_rq_completed": 1,
}
REFUSED = {"downstream_cx_total": 1, "downstream_cx_destroy": 1}
ANONYMOUS = {**SERVED, "ssl.no_certificate": 1}
UNMATCHED = {"no_filter_chain_match": 1, "downstream_cx_total": 0}
DETAILS = ("worker_", "ssl.ciphers.", "ssl.curves.", "ssl.sigalgs.", "ssl.versions.")


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return needed(request.param)


class Door:
    """One TLS listener of a proxy that runs alone, and its certificates."""

    def __init__(self, room: Room, proxy: Proxy) -> None:
        self.room, self.proxy = room, proxy
        self.mint = Mint()
        self.port = room.port()
        self.trusted = room.directory / "ca.pem"
        self.trusted.write_bytes(authority().pem)

    def secured(self, leaf: Leaf, server_name: str = "") -> Secured:
        """Write a certificate into files."""
        chain, key = (self.room.directory / f"{serial(leaf):x}.{end}" for end in ("pem", "key"))
        chain.write_bytes(leaf.chain_pem)
        key.write_bytes(leaf.key_pem)
        return Secured(chain, key, server_name)

    def chain(self, leaf: Leaf, *, server_name: str = "", trusted: Path | None = None, **context: object) -> Json:
        """Return the filter chain of one certificate; `context` extends its DownstreamTlsContext."""
        secured = self.secured(leaf, server_name)
        made = tls_chain(Secured(secured.chain, secured.key, server_name, trusted), f"{server_name or 'any'}\n")
        made["transport_socket"]["typed_config"].update(context)
        return made

    def mutual(self, *, required: bool = True) -> Json:
        """Return the filter chain that verifies its clients."""
        return self.chain(self.mint.leaf(), trusted=self.trusted, require_client_certificate=required)

    @contextmanager
    def open(self, *chains: Json) -> Iterator["Open"]:
        """Run the proxy with these filter chains."""
        made = listener("tls", "127.0.0.1", self.port, chains)
        with running(self.room, self.proxy, {"static_resources": {"listeners": [made]}}) as proxy:
            yield Open(proxy, self.port)


class Open:
    """The listener while its proxy runs."""

    def __init__(self, running: Running, port: int) -> None:
        self.running, self.port = running, port

    def counts(self) -> dict[str, int]:
        """Read the listener's counters, without details of handshakes."""
        numbers = self.running.console.numbers(f"listener.127.0.0.1_{self.port}.")
        return {name: value for name, value in numbers.items() if not name.startswith(DETAILS)}

    def details(self, of: str) -> dict[str, int]:
        """Read the counters of one kind of detail, such as `ssl.versions`, that are not 0."""
        numbers = self.running.console.numbers(f"listener.127.0.0.1_{self.port}.{of}.")
        return {name: value for name, value in numbers.items() if value}

    @contextmanager
    def counting(self, expected: dict[str, int]) -> Iterator[None]:
        """Check that exactly these counters change, by these amounts, in the block and shortly after it."""
        before = self.counts()
        yield
        wanted = {name: value for name, value in expected.items() if value}
        eventually(lambda: self._moved_since(before, wanted), what=f"counted {wanted}")

    def _moved_since(self, before: dict[str, int], wanted: dict[str, int]) -> bool:
        now = self.counts()
        moved = {name: now[name] - before.get(name, 0) for name in now if now[name] != before.get(name, 0)}
        assert moved == wanted
        return True


@pytest.fixture
def door(room: Room, proxy: Proxy) -> Door:
    return Door(room, proxy)


def issued(since: timedelta, until: timedelta) -> Leaf:
    """Issue a client certificate that is valid between two spans from now."""
    now = datetime.now(UTC)
    return authority().issue(["client.test"], not_before=now + since, not_after=now + until)


def test_a_client_with_a_good_certificate_is_served_and_the_others_are_refused_as_by_envoy(door: Door) -> None:
    good, stranger = issued(-HOUR, HOUR), Authority.create("a stranger").issue(["client.test"])
    unverified = {**REFUSED, "ssl.fail_verify_error": 1}
    early = {TLS12: True, TLS13: False}
    future = "sslv3 alert certificate expired" if door.proxy.name == "envoy" else "sslv3 alert bad certificate"
    none = {TLS12: "sslv3 alert handshake failure", TLS13: "tlsv13 alert certificate required"}
    with door.open(door.mutual()) as place:
        for version in VERSIONS:
            with place.counting(SERVED):
                met = Client(version, good, judged=True).meet(place.port)
            assert (met.refused, met.body, met.serial) == ("", b"any\n", serial(door.mint.newest))
            for identity, alert, counted in (
                (None, none[version], {**REFUSED, "ssl.fail_verify_no_cert": 1}),
                (stranger, "tlsv1 alert unknown ca", unverified),
                (issued(-2 * HOUR, -HOUR), "sslv3 alert certificate expired", unverified),
                (issued(HOUR, 2 * HOUR), future, unverified),
            ):
                with place.counting(counted):
                    met = Client(version, identity, judged=True).meet(place.port)
                assert (met.refused, met.early) == (alert, early[version])
        assert place.details("ssl.versions") == {"TLSv1.2": 1, "TLSv1.3": 1}
        assert sum(place.details("ssl.ciphers").values()) == 2


def test_a_certificate_that_is_not_required_must_verify_all_the_same(door: Door) -> None:
    stranger = Authority.create("a stranger").issue(["client.test"])
    with door.open(door.mutual(required=False)) as place:
        with place.counting(ANONYMOUS):
            assert Client().meet(place.port).body == b"any\n"
        with place.counting(SERVED):
            assert Client(identity=issued(-HOUR, HOUR)).meet(place.port).body == b"any\n"
        with place.counting({**REFUSED, "ssl.fail_verify_error": 1}):
            assert Client(identity=stranger, judged=True).meet(place.port).refused == "tlsv1 alert unknown ca"


def test_a_client_of_an_intermediate_authority_is_served_when_it_sends_the_intermediate(door: Door) -> None:
    below = authority().intermediate("between")
    with door.open(door.mutual()) as place:
        with place.counting(SERVED):
            assert Client(identity=below.issue(["client.test"])).meet(place.port).body == b"any\n"
        alone = Alone(below.issue(["client.test"]))
        with place.counting({**REFUSED, "ssl.fail_verify_error": 1}):
            assert Client(identity=alone, judged=True).meet(place.port).refused == "tlsv1 alert unknown ca"


class Alone:
    """A pair whose chain is only the leaf."""

    def __init__(self, leaf: Leaf) -> None:
        self.chain_pem, self.key_pem = leaf.certificate_pem, leaf.key_pem


def test_a_protocol_is_negotiated_by_the_servers_order(door: Door) -> None:
    chain = door.chain(door.mint.leaf())
    chain["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = ["first", "http/1.1"]
    with door.open(chain) as place:
        for offered, agreed in (
            (["http/1.1"], "http/1.1"),
            (["http/1.1", "first"], "first"),
            (["unknown"], None),
            ([], None),
        ):
            with place.counting(ANONYMOUS):
                met = Client(alpn=offered).meet(place.port)
            assert (met.refused, met.alpn) == ("", agreed)


def test_a_client_below_the_minimum_version_is_refused_and_counted(door: Door) -> None:
    chain = door.chain(door.mint.leaf())
    common = chain["transport_socket"]["typed_config"]["common_tls_context"]
    common["tls_params"] = {"tls_minimum_protocol_version": "TLSv1_3"}
    with door.open(chain) as place:
        with place.counting({**REFUSED, "ssl.connection_error": 1}):
            met = Client(TLS12).meet(place.port)
        assert (met.refused, met.early) == ("tlsv1 alert protocol version", True)
        with place.counting(ANONYMOUS):
            assert Client(TLS13).meet(place.port).version == "TLSv1.3"


def test_what_is_not_tls_is_a_connection_error(door: Door) -> None:
    with door.open(door.chain(door.mint.leaf())) as place:
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", bytes(64)):
            with place.counting({**REFUSED, "ssl.connection_error": 1}), closing(place.port) as sock:
                sock.sendall(sent)


@contextmanager
def closing(port: int) -> Iterator[socket.socket]:
    """Connect without TLS; at the end wait until the server closes."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        yield sock
        with suppress(ConnectionResetError):
            while sock.recv(4096):
                pass


def test_a_client_that_leaves_before_its_hello_is_no_error_of_tls(door: Door) -> None:
    with door.open(door.chain(door.mint.leaf())) as place, place.counting(REFUSED):
        socket.create_connection(("127.0.0.1", place.port), 5).close()


def test_the_server_name_chooses_among_the_chains(door: Door) -> None:
    exact, wild = door.mint.leaf("one.test"), door.mint.leaf("*.many.test")
    chains = [door.chain(exact, server_name="one.test"), door.chain(wild, server_name="*.many.test")]
    with door.open(*chains) as place:
        for name, leaf, body in (
            ("one.test", exact, b"one.test\n"),
            ("ONE.test", exact, b"one.test\n"),
            ("a.many.test", wild, b"*.many.test\n"),
            ("a.b.many.test", wild, b"*.many.test\n"),
        ):
            with place.counting(ANONYMOUS):
                met = Client(server_name=name).meet(place.port)
            assert (met.body, met.serial) == (body, serial(leaf))
        for name in ("many.test", "other.test", ""):
            with place.counting(UNMATCHED):
                met = Client(server_name=name).meet(place.port)
            assert (met.refused in {"eof", "reset"}, met.early) == (True, True)


def test_the_server_name_chooses_among_the_certificates_of_a_chain(door: Door) -> None:
    first, second, wild = (door.mint.leaf(name) for name in ("one.test", "two.test", "*.many.test"))
    chain = door.chain(first)
    certificates = chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_certificates"]
    for leaf in (second, wild):
        secured = door.secured(leaf)
        files = {"certificate_chain": secured.chain, "private_key": secured.key}
        certificates.append({part: {"filename": str(path)} for part, path in files.items()})
    with door.open(chain) as place:
        for name, leaf in (
            ("one.test", first),
            ("two.test", second),
            ("a.many.test", wild),
            ("a.b.many.test", first),
            ("other.test", first),
            ("", first),
        ):
            with place.counting(ANONYMOUS):
                met = Client(server_name=name).meet(place.port)
            assert (met.refused, met.serial) == ("", serial(leaf)), name


def test_a_client_gets_a_certificate_it_can_verify(door: Door) -> None:
    """One chain with an RSA and an ECDSA certificate of the same name."""
    rsa, ecdsa = door.mint.leaf("one.test", key="rsa"), door.mint.leaf("one.test")
    chain = door.chain(rsa)
    secured = door.secured(ecdsa)
    chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_certificates"].append(
        {"certificate_chain": {"filename": str(secured.chain)}, "private_key": {"filename": str(secured.key)}}
    )
    with door.open(chain) as place:
        for ciphers, leaf in (("ECDHE-RSA-AES128-GCM-SHA256", rsa), ("ECDHE-ECDSA-AES128-GCM-SHA256", ecdsa)):
            met = Client(TLS12, server_name="one.test", ciphers=ciphers).meet(place.port)
            assert (met.refused, met.serial) == ("", serial(leaf))
        assert Client(TLS13, server_name="one.test").meet(place.port).serial == serial(ecdsa)
