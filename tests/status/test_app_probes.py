"""Probes of an application, against real servers: the result is what a kubelet would see at the application itself."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from agent.core.app_probes import GrpcProbe, HttpProbe, Probe, TcpProbe
from agent.http.message import Headers, Request, Response
from agent.http.server import Server
from agent.status.app_probes import AT_ONCE, AppProbes
from tests.status.test_grpc_health import health_server

PATH = "/app-health/app/livez"
HERE = "127.0.0.1"
STATUS = 15020
KUBELET: Headers = (("user-agent", "kube-probe/1.31"), ("accept", "*/*"), ("connection", "close"))
Serve = Callable[[Request], Awaitable[Response]]


@asynccontextmanager
async def application(answer: Serve | int, host: str = HERE, port: int = 0) -> AsyncIterator[int]:
    """Run an application that answers every request so, or with this status; yield its port."""

    async def fixed(_: Request) -> Response:
        return Response(cast(int, answer), b"the application\n")

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    server = Server(fixed if isinstance(answer, int) else answer)
    await server.start(listener)
    try:
        yield listener.getsockname()[1]
    finally:
        await server.close()


async def probed(probe: Probe, headers: Headers = KUBELET, address: str | None = None) -> tuple[int, str]:
    """Return the status and the body of one probe."""
    return body_of(await AppProbes({PATH: probe}, address, STATUS).answer(Request("GET", PATH, headers)))


def body_of(response: Response) -> tuple[int, str]:
    assert isinstance(response.body, bytes)
    assert dict(response.headers)["content-type"].startswith("text/plain")
    return response.status, response.body.decode()


@pytest.fixture
def closed() -> Iterator[int]:
    """A port at which no process listens."""
    with socket.socket() as bound:
        bound.bind((HERE, 0))
        yield bound.getsockname()[1]


# Which requests


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/app-health/other/livez", 400),
        ("/app-lifecycle/app/prestopz", 400),
        ("/app-health/app/healthz", 404),
        ("/app-health/app/livez/", 404),
        ("/app-health/", 404),
    ],
)
async def test_a_path_that_is_not_configured_names_the_option(path: str, status: int) -> None:
    response = await AppProbes({PATH: TcpProbe(1)}, None, STATUS).answer(Request("GET", path))
    assert body_of(response) == (status, f"no prober is configured for {path}; see --app-probers\n")


async def test_only_get_and_head_probe() -> None:
    response = await AppProbes({PATH: TcpProbe(1)}, None, STATUS).answer(Request("POST", PATH))
    assert response.status == 405


# HTTP


@pytest.mark.parametrize("status", [200, 204, 299, 304, 400, 404, 418, 500, 503, 599])
async def test_the_applications_status_is_passed_on_and_a_3xx_is_a_success(status: int) -> None:
    async with application(status) as port:
        expected = 200 if status == 304 else status
        assert (await probed(HttpProbe(port)))[0] == expected


async def test_the_request_is_the_kubelets_without_what_concerns_its_connection() -> None:
    seen: list[Request] = []

    async def answer(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"fine")

    sent: Headers = (
        *KUBELET,
        ("host", f"10.0.0.5:{STATUS}"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("keep-alive", "x"),
        ("te", "x"),
    )
    probe_headers = (("x-a", "ignored"), ("x-b", "added"))
    async with application(answer) as port:
        probe = HttpProbe(port, "/live?deep=1", headers=probe_headers)
        assert await probed(probe, sent) == (200, "fine")
        (request,) = seen
    assert (request.method, request.target, request.body) == ("GET", "/live?deep=1", b"")
    headers = [pair for pair in request.headers if pair[0] not in {"content-length", "connection"}]
    assert sorted(headers) == sorted([
        ("user-agent", "kube-probe/1.31"), ("accept", "*/*"), ("x-a", "1"), ("x-a", "2"), ("x-b", "added"),
        ("host", f"10.0.0.5:{port}"),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("came", "own", "expected"),
    [
        (f"10.0.0.5:{STATUS}", None, "10.0.0.5:PORT"),
        (f"[fd00::5]:{STATUS}", None, "[fd00::5]:PORT"),
        ("shop.example", None, "shop.example"),
        ("shop.example:80", None, "shop.example:80"),
        (f"10.0.0.5:{STATUS}", "mediawiki.local", "mediawiki.local"),
        ("", None, "localhost:PORT"),
        (None, None, "localhost:PORT"),
    ],
)
async def test_the_host_is_the_one_that_the_application_would_see(
    came: str | None, own: str | None, expected: str
) -> None:
    """A virtual host by httpHeaders must be kept (istio/istio#23482)."""
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        seen.append(dict(request.headers)["host"])
        return Response(200)

    async with application(answer) as port:
        probe = HttpProbe(port, headers=() if own is None else (("host", own),))
        await probed(probe, KUBELET if came is None else (*KUBELET, ("host", came)))
        assert seen == [expected.replace("PORT", str(port))]


async def test_a_long_body_is_cut_and_does_not_fail_the_probe() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    async def answer(_: Request) -> Response:
        return Response(200, endless())

    async with application(answer) as port:
        status, body = await probed(HttpProbe(port, timeout=20))
    assert (status, len(body)) == (200, 10 << 10)


async def test_no_connection_a_timeout_and_no_http_are_failures_with_a_reason(closed: int) -> None:
    assert await probed(HttpProbe(closed)) == (500, f"port {closed}: Connection refused\n")
    with socket.create_server((HERE, 0)) as silent:
        port = silent.getsockname()[1]
        assert await probed(HttpProbe(port, timeout=0.05)) == (500, f"port {port} does not answer within 0.05 s\n")

    async def banner(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(banner, HERE, 0) as server:
        status, reason = await probed(HttpProbe(server.sockets[0].getsockname()[1]))
    assert status == 500
    assert "cannot parse the answer" in reason


async def test_the_timeout_is_that_of_the_probe(closed: int) -> None:
    """It was 10 s whatever the pod said (istio/istio#18242)."""
    del closed

    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.3)
        return Response(200)

    async with application(slow) as port:
        assert (await probed(HttpProbe(port, timeout=0.1)))[0] == 500
        assert (await probed(HttpProbe(port, timeout=20)))[0] == 200


# Redirects


def redirecting(locations: Mapping[str, str]) -> tuple[Serve, list[str]]:
    """Return an application that redirects these targets and answers 200 to others, and the targets it was asked."""
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.target)
        if location := locations.get(request.target):
            port = dict(request.headers)["host"].rpartition(":")[2]
            return Response(302, b"moved", (("location", location.replace("PORT", port)),))
        return Response(200 if request.target != "/bad" else 503, b"end")

    return answer, asked


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/login", "/login"),
        ("login?x=1", "/a/login?x=1"),
        ("?x=1", "/a/live?x=1"),
        ("//localhost:PORT/x", "/x"),
        ("http://localhost:PORT/x#y", "/x"),
        ("http://LOCALHOST:PORT", "/"),
    ],
)
async def test_a_redirect_on_the_same_host_is_followed(location: str, target: str) -> None:
    answer, asked = redirecting({"/a/live": location})
    async with application(answer) as port:
        assert await probed(HttpProbe(port, "/a/live")) == (200, "end")
    assert asked == ["/a/live", target]


async def test_the_end_of_a_redirect_decides() -> None:
    answer, _ = redirecting({"/": "/bad"})
    async with application(answer) as port:
        assert (await probed(HttpProbe(port)))[0] == 503


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://elsewhere.example/x",
            "//elsewhere.example/x",
            "https://10.1.2.3/",
            "ftp://localhost/x",
            "mailto:a@b",
        ),
        *("http://localhost:99999/", "http://[::1", "http://localhost:PORT/a b"),
    ],
)
async def test_a_redirect_to_elsewhere_is_a_success_and_is_not_followed(location: str) -> None:
    """As since Kubernetes 1.14 (kubernetes/kubernetes#75416)."""
    answer, asked = redirecting({"/": location})
    async with application(answer) as port:
        assert await probed(HttpProbe(port)) == (200, "moved")
    assert asked == ["/"]


async def test_a_redirect_to_the_host_that_the_kubelet_names_is_on_the_same_host() -> None:
    """An application makes an absolute URL of the Host header, which has the pod's address."""
    answer, asked = redirecting({"/": "http://10.0.0.5:PORT/x"})
    async with application(answer) as port:
        assert await probed(HttpProbe(port), (*KUBELET, ("host", f"10.0.0.5:{STATUS}"))) == (200, "end")
    assert asked == ["/", "/x"]


async def test_ten_redirects_are_followed_and_an_eleventh_is_a_failure() -> None:
    for count, status in ((10, 200), (11, 500)):
        answer, asked = redirecting({f"/{number}": f"/{number + 1}" for number in range(count)})
        async with application(answer) as port:
            assert (await probed(HttpProbe(port, "/0", timeout=20)))[0] == status
        assert len(asked) == 11


# HTTPS


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's context with a certificate of another name, long expired, with a short key."""
    directory: Path = tmp_path_factory.mktemp("weak")
    files = ["-keyout", str(directory / "key"), "-out", str(directory / "chain")]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-sha1", "-nodes", "-subj", "/CN=x", "-days", "1", *files]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.load_cert_chain(directory / "chain", directory / "key")
    return context


@asynccontextmanager
async def secure(context: ssl.SSLContext, answer: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, HERE, 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsafe"


async def test_any_certificate_is_accepted(weak: ssl.SSLContext) -> None:
    async with secure(weak, OK) as port:
        assert await probed(HttpProbe(port, tls=True, timeout=20)) == (200, "safe")


async def test_a_redirect_from_http_to_https_is_followed(weak: ssl.SSLContext) -> None:
    """Kubernetes follows it as well (kubernetes/kubernetes#136698)."""
    async with secure(weak, OK) as port:
        answer, _ = redirecting({"/": f"https://localhost:{port}/"})
        async with application(answer) as plain:
            assert await probed(HttpProbe(plain, timeout=20)) == (200, "safe")


async def test_https_to_a_plain_port_is_a_failure_with_a_reason() -> None:
    async with application(200) as port:
        status, reason = await probed(HttpProbe(port, tls=True, timeout=20))
    assert status == 500
    assert f"port {port}" in reason


# TCP and gRPC


async def test_tcp_succeeds_only_while_a_process_listens(closed: int) -> None:
    """Behind a proxy each port accepts, so such a probe was always a success (istio/istio#15178)."""
    async with application(200) as port:
        assert (await probed(TcpProbe(port)))[0] == 200
    assert await probed(TcpProbe(closed)) == (500, f"port {closed}: Connection refused\n")


async def test_grpc_succeeds_only_for_a_service_that_serves(closed: int) -> None:
    with health_server() as port:
        assert await probed(GrpcProbe(port, timeout=20)) == (200, "SERVING\n")
        assert await probed(GrpcProbe(port, "down", timeout=20)) == (500, "NOT_SERVING\n")
        assert (await probed(GrpcProbe(port, "nobody", timeout=20)))[0] == 500
        status, reason = await probed(GrpcProbe(port, "slow", timeout=0.2))
        assert (status, "does not answer within 0.2 s" in reason) == (500, True)
    assert await probed(GrpcProbe(closed)) == (500, f"port {closed}: Connection refused\n")


async def test_grpc_to_an_http_server_is_a_failure_with_a_reason() -> None:
    async with application(200) as port:
        status, reason = await probed(GrpcProbe(port, timeout=20))
    assert (status, "does not speak HTTP/2" in reason) == (500, True)


# Addresses


def source_of(seen: list[str | None]) -> Serve:
    async def answer(request: Request) -> Response:
        seen.append(request.address)
        return Response(200)

    return answer


async def test_the_pods_address_is_asked_from_the_source_that_interception_lets_pass() -> None:
    """It was localhost, where an application bound to the pod's address does not listen (istio/istio#25177)."""
    seen: list[str | None] = []
    async with application(source_of(seen), "127.0.0.9") as port:
        assert (await probed(HttpProbe(port)))[0] == 500, "not at loopback's first address"
        assert (await probed(HttpProbe(port), address="127.0.0.9"))[0] == 200
        assert (await probed(TcpProbe(port), address="127.0.0.9"))[0] == 200
    assert seen == ["127.0.0.6"]


async def test_without_that_source_loopback_is_asked() -> None:
    """`::6` is an address only where interception has added it."""
    seen: list[str | None] = []
    async with application(source_of(seen)) as port:
        assert (await probed(HttpProbe(port), address="::1"))[0] == 200
    assert seen == [HERE]


async def test_an_application_at_the_other_loopback_address_is_found() -> None:
    seen: list[str | None] = []
    async with application(source_of(seen), "::1") as port:
        assert (await probed(HttpProbe(port)))[0] == 200
    assert seen == ["::1"]


# Many


async def test_more_than_a_limit_at_once_are_refused_and_later_ones_are_not() -> None:
    release, full = asyncio.Event(), asyncio.Event()
    waiting = 0

    async def held(_: Request) -> Response:
        nonlocal waiting
        waiting += 1
        if waiting == AT_ONCE:
            full.set()
        await release.wait()
        return Response(200)

    async with application(held) as port:
        probes = AppProbes({PATH: HttpProbe(port, timeout=20)}, None, STATUS)
        request = Request("GET", PATH, KUBELET)
        running = [asyncio.create_task(probes.answer(request)) for _ in range(AT_ONCE)]
        await full.wait()
        assert body_of(await probes.answer(request)) == (503, f"{AT_ONCE} probes run already\n")
        release.set()
        assert {each.status for each in await asyncio.gather(*running)} == {200}
        assert (await probes.answer(replace(request, method="HEAD"))).status == 200
