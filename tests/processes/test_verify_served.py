"""What a client sees after a rotation is compared with what the epoch runs from."""

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.certificates.x509 import Leaf
from agent.core.errors import MachineError
from agent.handoff.socket_store import ListenAddress
from agent.host.sockets import Endpoint
from agent.host.tls_probe import ProbeError
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.processes import verify_served as module
from agent.processes.verify_served import LIMIT, verify_served
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.interface import TlsListener
from agent.status.model import ProbeResult
from tests import pki
from tests.processes.fakes import FakeAdmin
from tests.processes.virtual_time import now, virtual_time
from tests.proxies.envoy.test_tls_listeners import listener, tls

AUTHORITY = pki.Authority.create("proof")
OURS, OTHER = (AUTHORITY.issue([name], serial=serial) for name, serial in (("ours", 0xABC), ("other", 0xDEF)))

LOOKING = """
import asyncio, pathlib, sys, types
from agent.processes.verify_served import verify_served
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.interface import TlsListener

async def main():
    admin = AdminClient(pathlib.Path(sys.argv[1]))
    known = set(sys.modules)
    (seen,) = await verify_served(admin, [types.SimpleNamespace(fingerprint="")], again=())
    print(seen.serial)
    print(*sys.modules.keys() - known, end="")

asyncio.run(main())
"""

Tree = dict[str, Any]


def leaf(issued: pki.Leaf) -> Leaf:
    return Leaf.of(issued.certificate)


class Door:
    """A TLS server that shows these in sequence, and the last of them to all further clients."""

    def __init__(self, directory: Path, *shown: pki.Leaf) -> None:
        self._contexts = [_context(directory / "pair.pem", each) for each in shown]
        self.context = self._contexts[0]
        self.context.sni_callback = self._come
        self.asked_for: list[str | None] = []
        self.finished = 0

    def _come(self, handshake: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        handshake.context = self._contexts[min(len(self.asked_for), len(self._contexts) - 1)]
        self.asked_for.append(name)

    async def greet(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept a client that finished the handshake."""
        self.finished += 1
        writer.close()

    @asynccontextmanager
    async def open(self, host: str = "127.0.0.1", path: str = "") -> AsyncIterator[Tree]:
        """Serve; return the address as an admin interface shows it."""
        if path:
            server = await asyncio.start_unix_server(self.greet, path, ssl=self.context)
            name: Tree = {"pipe": {"path": path}}
        else:
            server = await asyncio.start_server(self.greet, host, 0, ssl=self.context)
            name = address(host, server.sockets[0].getsockname()[1])
        async with server:
            yield name


def _context(path: Path, shown: pki.Leaf) -> ssl.SSLContext:
    path.write_bytes(shown.chain_pem + shown.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def address(host: str, port: int) -> Tree:
    return {"socket_address": {"address": host, "port_value": port}}


@asynccontextmanager
async def admin(
    directory: Path, *static: Tree, dynamic: Sequence[Tree] = (), status: int = 200
) -> AsyncIterator[AdminClient]:
    """An admin interface that lists these listeners; without dynamic ones it omits their list, as Envoy does."""

    async def answer(request: Request) -> Response:
        if "static" in request.target:
            return Response(status, json.dumps({"configs": [{"listener": each} for each in static]}).encode())
        if not dynamic:
            return Response(400, b"dynamic_listeners not found in config dump")
        return Response(
            200, json.dumps({"configs": [{"active_state": {"listener": each}} for each in dynamic]}).encode()
        )

    bound = socket.socket(socket.AF_UNIX)
    path = directory / "admin"
    bound.bind(str(path))
    server = Server(answer)
    await server.start(bound)
    try:
        yield AdminClient(path)
    finally:
        await server.close()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path, OURS)


def spelled(name: Tree) -> str:
    inner = name["socket_address"]
    return ListenAddress.at("tcp", inner["address"], str(inner["port_value"]), "").address


async def test_the_certificate_that_a_client_receives_is_recorded(tmp_path: Path, door: Door) -> None:
    async with door.open() as name, admin(tmp_path, listener(tls()) | {"address": name}) as asked:
        assert await verify_served(asked, [leaf(OTHER), leaf(OURS)]) == (
            ProbeResult(spelled(name), "0abc", matches=True),
        )


async def test_the_handshake_is_left_before_it_is_finished(tmp_path: Path, door: Door) -> None:
    async with door.open() as name, admin(tmp_path, listener(tls()) | {"address": name}) as asked:
        await verify_served(asked, [leaf(OURS)])
    assert (len(door.asked_for), door.finished) == (1, 0)


async def test_a_server_that_wants_a_certificate_of_its_client_shows_its_own_first(tmp_path: Path, door: Door) -> None:
    door.context.verify_mode = ssl.CERT_REQUIRED
    async with door.open() as name, admin(tmp_path, listener(tls()) | {"address": name}) as asked:
        assert (await verify_served(asked, [leaf(OURS)]))[0].matches


@pytest.mark.parametrize("verify", [ssl.CERT_NONE, ssl.CERT_REQUIRED])
async def test_before_tls_13_it_shows_its_own_before_it_wants_ours(
    tmp_path: Path, door: Door, verify: ssl.VerifyMode
) -> None:
    door.context.maximum_version = ssl.TLSVersion.TLSv1_2
    door.context.verify_mode = verify
    async with door.open() as name, admin(tmp_path, listener(tls()) | {"address": name}) as asked:
        (seen,) = await verify_served(asked, [leaf(OURS)])
    assert (seen.matches, seen.error) == (True, "")


async def test_the_name_of_a_chain_is_asked_for(tmp_path: Path, door: Door) -> None:
    chains = listener(tls(server_names=["*.a.example"]), tls(server_names=["b.example"]))
    async with door.open() as name, admin(tmp_path, chains | {"address": name}) as asked:
        seen = await verify_served(asked, [leaf(OURS)])
    assert sorted(map(str, door.asked_for)) == ["b.example", "proof.a.example"]
    assert [each.address for each in seen] == [f"{spelled(name)} proof.a.example", f"{spelled(name)} b.example"]


async def test_another_certificate_is_not_what_the_epoch_runs_from(tmp_path: Path, door: Door) -> None:
    async with door.open() as name, admin(tmp_path, listener(tls()) | {"address": name}) as asked:
        assert await verify_served(asked, [leaf(OTHER)], again=[0.0]) == (
            ProbeResult(spelled(name), "0abc", matches=False),
        )
    assert len(door.asked_for) == 2


async def test_it_looks_again_since_the_epoch_before_may_have_shown_it(tmp_path: Path) -> None:
    door = Door(tmp_path, OTHER, OTHER, OURS)
    async with door.open() as name, admin(tmp_path, listener(tls()) | {"address": name}) as asked:
        assert await verify_served(asked, [leaf(OURS)], again=[0.0, 0.0, 3600.0]) == (
            ProbeResult(spelled(name), "0abc", matches=True),
        )
    assert len(door.asked_for) == 3, "and no more often than it takes"


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", "0.0.0.0"), ("::1", "::")])
async def test_a_listener_at_every_address_is_reached_by_loopback(
    tmp_path: Path, door: Door, host: str, told: str
) -> None:
    async with door.open(host) as name:
        name["socket_address"]["address"] = told
        async with admin(tmp_path, listener(tls()) | {"address": name}) as asked:
            assert await verify_served(asked, [leaf(OURS)]) == (ProbeResult(spelled(name), "0abc", matches=True),)


async def test_a_unix_socket_is_reached_too(tmp_path: Path, door: Door) -> None:
    path = str(tmp_path / "in")
    async with door.open(path=path) as name, admin(tmp_path, dynamic=[listener(tls()) | {"address": name}]) as asked:
        seen = await verify_served(asked, [leaf(OURS)], [ListenAddress(f"unix://{path}")])
        assert seen == (ProbeResult(f"unix://{path}", "0abc", matches=True),)


async def test_a_unix_socket_that_only_the_admin_interface_names_is_not_contacted(tmp_path: Path) -> None:
    """The server would see a connection of root; a compromised proxy could direct the agent to any socket."""
    with socket.socket(socket.AF_UNIX) as victim:
        victim.bind(str(tmp_path / "victim"))
        victim.listen()
        victim.setblocking(False)
        name = {"pipe": {"path": str(tmp_path / "victim")}}
        async with admin(tmp_path, dynamic=[listener(tls()) | {"address": name}]) as asked:
            assert await verify_served(asked, [leaf(OURS)], [ListenAddress("unix:///another")]) == ()
        with pytest.raises(BlockingIOError):
            victim.accept()


async def test_a_silent_server_is_recorded_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        names = [address(*each.getsockname()) for each in (deaf, nobody)]
        async with admin(tmp_path, *(listener(tls()) | {"address": name} for name in names)) as asked:
            silent, refused = await verify_served(asked, [leaf(OURS)])
    assert (silent.serial, silent.matches, silent.error) == (None, False, "no answer within 0.2 s")
    assert refused.error.startswith("no connection: [Errno 111]")


async def test_a_closed_connection_or_invalid_answer_is_recorded_with_the_reason(tmp_path: Path) -> None:
    came = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.close()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    servers = [await asyncio.start_server(each, "127.0.0.1", 0) for each in (hang_up, babble)]
    names = [address(*server.sockets[0].getsockname()) for server in servers]
    async with admin(tmp_path, *(listener(tls()) | {"address": name} for name in names)) as asked:
        for seen in await verify_served(asked, [leaf(OURS)]):
            assert (seen.serial, seen.matches) == (None, False)
            assert seen.error.startswith(("the handshake failed: ", "no connection: "))
    assert came == 1, "it is not looked at again"
    for server in servers:
        server.close()


async def test_there_are_no_more_connections_than_the_limit(tmp_path: Path, door: Door) -> None:
    chains = listener(*(tls(server_names=[f"n{number}.example"]) for number in range(LIMIT + 3)))
    async with door.open() as name, admin(tmp_path, chains | {"address": name}) as asked:
        assert len(await verify_served(asked, [leaf(OURS)])) == LIMIT
    assert len(door.asked_for) == LIMIT


async def test_no_connection_to_a_plain_listener_or_without_a_certificate_to_compare(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        name = {"address": address(*server.getsockname())}
        async with admin(tmp_path, {"filter_chains": [{"filters": []}], **name}) as asked:
            assert await verify_served(asked, [leaf(OURS)]) == ()
        (tmp_path / "admin").unlink()
        async with admin(tmp_path, listener(tls()) | name) as asked:
            assert await verify_served(asked, []) == ()
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_an_admin_interface_without_an_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"cannot ask .*/config_dump"):
        await verify_served(AdminClient(tmp_path / "admin"), [leaf(OURS)])


async def test_a_verification_imports_no_module(tmp_path: Path) -> None:
    """A running agent must not import: an upgrade may have replaced the modules."""
    shown = Door(tmp_path, OURS)
    async with (
        shown.open() as name,
        admin(tmp_path, listener(tls(server_names=["a.example"])) | {"address": name}) as asked,
    ):
        command = [sys.executable, "-c", LOOKING, str(asked.path)]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        told, _ = await child.communicate()
    assert told.decode().split("\n") == ["0abc", ""]


# With answers that are no connections


class Clients:
    """What clients see at each address, one after the other: a certificate in DER, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seen: list[bytes | Exception]) -> None:
        self.seen = {f"tcp://127.0.0.1:{name[1:]}": list(answers) for name, answers in seen.items()}
        self.asked: list[tuple[float, int, str | None, float]] = []
        monkeypatch.setattr(module, "probe", self._probe)

    async def _probe(self, endpoint: Endpoint, name: str | None, _: object, timeout: float) -> list[bytes]:
        self.asked.append((round(now() - 1000, 3), endpoint.port, name, timeout))
        await asyncio.sleep(0)
        answers = self.seen[f"tcp://127.0.0.1:{endpoint.port}"]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [answer, b"an intermediate"]


def der(issued: pki.Leaf) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)


def listens(*ports: int, name: str | None = None) -> FakeAdmin:
    """A console that lists these TLS listeners."""
    made = FakeAdmin(Path("/nowhere"))
    made.answers["tls_listeners"] = [TlsListener(ListenAddress(f"tcp://127.0.0.1:{port}"), name) for port in ports]
    return made


@virtual_time
async def test_only_those_that_show_another_certificate_are_looked_at_again_a_tenth_and_half_a_second_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = ProbeError(ConnectionRefusedError(111, "refused"), b"", connected=False)
    clients = Clients(monkeypatch, p1=[der(OURS)], p2=[der(OTHER)], p3=[refused], p4=[der(OTHER), der(OURS)])
    seen = await verify_served(listens(1, 2, 3, 4), [leaf(OURS)])
    assert [(each.serial, each.matches) for each in seen] == [
        ("0abc", True),
        ("0def", False),
        (None, False),
        ("0abc", True),
    ]
    assert [(at, port) for at, port, _, _ in clients.asked] == [
        (0.0, 1),
        (0.0, 2),
        (0.0, 3),
        (0.0, 4),
        (0.1, 2),
        (0.1, 4),
        (0.6, 2),
    ]
    assert {(name, timeout) for _, _, name, timeout in clients.asked} == {(None, 2.0)}


@virtual_time
async def test_one_that_fails_later_is_told_with_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    Clients(monkeypatch, p1=[der(OTHER), ProbeError(TimeoutError(), b"", connected=True)])
    [seen] = await verify_served(listens(1), [leaf(OURS)])
    assert (seen.serial, seen.matches) == (None, False)
    assert "2 s" in seen.error


@virtual_time
async def test_any_of_the_epochs_certificates_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(monkeypatch, p1=[der(OTHER)], p2=[der(OURS)])
    seen = await verify_served(listens(1, 2, name="a.test"), [leaf(OURS), leaf(OTHER)])
    assert [(each.address, each.matches, each.error) for each in seen] == [
        ("tcp://127.0.0.1:1 a.test", True, ""),
        ("tcp://127.0.0.1:2 a.test", True, ""),
    ]
    assert [name for _, _, name, _ in clients.asked] == ["a.test", "a.test"]


@pytest.mark.parametrize("data", [b"", b"no certificate", b"\x30\x82"])
@virtual_time
async def test_bytes_that_are_no_certificate_have_no_serial_and_do_not_match(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    Clients(monkeypatch, p1=[data])
    [seen] = await verify_served(listens(1), [leaf(OURS)])
    assert (seen.serial, seen.matches, seen.error) == (None, False, "")


def alert(reason: str | None) -> ssl.SSLError:
    """An error as OpenSSL raises it."""
    made = ssl.SSLError(1, "the whole text")
    made.reason = reason  # type: ignore[assignment]  # None for an error outside its tables
    return made


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "2 s"),
        (alert("UNRECOGNIZED_NAME"), "handshake failed: UNRECOGNIZED_NAME"),
        (alert(None), "the whole text"),
        (ConnectionResetError(104, "reset by peer"), "reset by peer"),
        (ValueError("no such name"), "no such name"),
    ],
)
@virtual_time
async def test_why_nothing_was_seen_is_told(
    monkeypatch: pytest.MonkeyPatch, error: OSError | ValueError, words: str
) -> None:
    Clients(monkeypatch, p1=[ProbeError(error, b"", connected=True)])
    [seen] = await verify_served(listens(1), [leaf(OURS)])
    assert words in seen.error


@virtual_time
async def test_the_first_sixteen_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = range(1, 20)
    shown: dict[str, list[bytes | Exception]] = {f"p{port}": [der(OURS)] for port in ports}
    clients = Clients(monkeypatch, **shown)
    assert len(await verify_served(listens(*ports), [leaf(OURS)])) == 16
    assert [port for _, port, _, _ in clients.asked] == list(range(1, 17))


@virtual_time
async def test_a_unix_socket_is_looked_at_only_if_the_configuration_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeAdmin(Path("/nowhere"))
    places = [ListenAddress(f"unix:///run/{name}") for name in "ab"]
    made.answers["tls_listeners"] = [TlsListener(place, None) for place in places]
    reached: list[str] = []

    async def see(endpoint: Endpoint, *_: object) -> list[bytes]:
        reached.append(endpoint.path)
        return [der(OURS)]

    monkeypatch.setattr(module, "probe", see)
    assert await verify_served(made, [leaf(OURS)]) == ()
    assert len(await verify_served(made, [leaf(OURS)], [places[1]])) == 1
    assert reached == ["/run/b"]


@virtual_time
async def test_without_certificates_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = listens(1)
    assert await verify_served(made, []) == ()
    assert made.asked == []
