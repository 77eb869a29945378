"""Selects the headers to forward, remove and add, as Envoy does as far as it matters."""

import os
import time

import h11

Headers = list[tuple[bytes, bytes]]

LIMIT = 100  # headers per request, Envoy's default for max_headers_count
WITHOUT_BODY = frozenset({204, 304})  # RFC 9110, 6.4.1
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


def values(headers: h11._headers.Headers, name: bytes) -> list[bytes]:
    """Return every value of a header; `name` is in lower case."""
    return [value for each, value in headers if each == name]


def nominated(headers: h11._headers.Headers) -> set[bytes]:
    """Return the tokens of the `connection` headers in lower case."""
    return {word.strip().lower() for value in values(headers, b"connection") for word in value.split(b",")}


def upgrade_of(headers: h11._headers.Headers) -> bytes:
    """Return the protocol that a request asks to upgrade to; empty if none, or h2c, as in Envoy."""
    wanted = b", ".join(values(headers, b"upgrade")).strip().lower()
    return wanted if wanted and wanted != b"h2c" and b"upgrade" in nominated(headers) else b""


def to_upstream(request: h11.Request, authority: bytes, *, is_secure: bool, timeout: float) -> Headers:
    """Return the request headers for the cluster; the framing of the body stays the same."""
    dropped = _HOP_BY_HOP | nominated(request.headers) | {b"host", b"expect", b"te", b"content-length"}
    kept = [(name, value) for name, value in request.headers if name not in dropped]
    names = {name for name, _ in kept}
    added: Headers = []
    if b"trailers" in (word.strip().lower() for value in values(request.headers, b"te") for word in value.split(b",")):
        added.append((b"te", b"trailers"))
    if b"x-forwarded-proto" not in names:
        added.append((b"x-forwarded-proto", b"https" if is_secure else b"http"))
    if b"x-request-id" not in names:
        added.append((b"x-request-id", _request_id()))
    if timeout:
        added.append((b"x-envoy-expected-rq-timeout-ms", b"%d" % (timeout * 1000)))
    return [(b"host", authority), *kept, *added, *framing(request.headers)]


def framing(headers: h11._headers.Headers) -> Headers:
    """Return the headers that frame the body; none for a request without a body."""
    if values(headers, b"transfer-encoding"):
        return [(b"transfer-encoding", b"chunked")]
    return [(b"content-length", value) for value in values(headers, b"content-length")]


def to_client(response: h11.Response, service_time: int, server: bytes) -> Headers:
    """Return the response headers for the client; `service_time` in milliseconds."""
    dropped = _HOP_BY_HOP | nominated(response.headers) | {b"server", b"x-envoy-upstream-service-time"}
    kept = [(name, value) for name, value in response.headers if name not in dropped]
    added = [(b"x-envoy-upstream-service-time", b"%d" % service_time), (b"server", server)]
    if all(name != b"date" for name, _ in kept):
        added.append((b"date", date()))
    return [*kept, *added]


def own(status: int, body: bytes, server: bytes) -> Headers:
    """Return the headers of a response that no cluster gave."""
    kind = [(b"content-type", b"text/plain")] if body else []
    length = [] if status in WITHOUT_BODY else [(b"content-length", b"%d" % len(body))]
    return [*length, *kind, (b"date", date()), (b"server", server)]


def is_framed_well(response: h11.Response) -> bool:
    """Return whether all parsers find the same end of a response.

    As in Envoy, a length with chunks is not allowed, and neither is a body of a response with status 204.
    """
    lengths, codings = values(response.headers, b"content-length"), values(response.headers, b"transfer-encoding")
    if response.status_code == 204:
        return not codings and lengths in ([], [b"0"])
    return not (codings and lengths)


def _request_id() -> bytes:
    """Return a random UUID (RFC 9562, version 4)."""
    number = int.from_bytes(os.urandom(16), "big") & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])).encode()


_dates: dict[int, bytes] = {}


def date() -> bytes:
    """Return the current time as an HTTP date, formatted once a second."""
    now = int(time.time())
    if now not in _dates:
        _dates.clear()
        _dates[now] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()
    return _dates[now]
