"""Parses the application's probes: JSON from request path to what the agent asks of the application.

It is the value of `ISTIO_KUBE_APP_PROBERS` (istio.io): `{path: {httpGet|tcpSocket|grpc: …, timeoutSeconds}}`, where the
inner objects are those of Kubernetes' Probe, or `{path: HTTPGetAction}` as in Istio 1.3.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from agent.core.errors import UsageError

PATH: Final = re.compile(r"/app-health/[^/]+/(livez|readyz|startupz)|/app-lifecycle/[^/]+/(prestopz|poststartz)")
_TIMEOUT, _OLD_TIMEOUT = 1.0, 10.0  # seconds: Kubernetes' default, and what Istio 1.3 took without a timeoutSeconds
_LONGEST_TIMEOUT = 3600.0
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_SAFE = "%/?@!$&'()*+,;=:[]~-._"  # of a path and its query


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """A GET of `target`; any certificate is accepted with `tls`. Header names are lower case."""

    port: int
    target: str = "/"
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = _TIMEOUT


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """A connection."""

    port: int
    timeout: float = _TIMEOUT


@dataclass(frozen=True, slots=True)
class GrpcProbe:
    """A call of grpc.health.v1.Health/Check for `service`, without TLS."""

    port: int
    service: str = ""
    timeout: float = _TIMEOUT


Probe = HttpProbe | TcpProbe | GrpcProbe


def parse(text: str) -> dict[str, Probe]:
    """Return the probes by request path. Raises `UsageError` that names the path at fault."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unusable(
            f"it is not JSON ({error})" if isinstance(error, ValueError) else "it is nested too deeply"
        ) from error
    if not isinstance(document, dict):
        raise _unusable("it is not an object from path to probe")
    return {path: _probe(path, value) for path, value in document.items()}


def _probe(path: str, value: object) -> Probe:
    if not PATH.fullmatch(path):
        form = "/app-health/CONTAINER/livez, readyz or startupz, or /app-lifecycle/CONTAINER/prestopz or poststartz"
        raise _unusable(f"{path!r} is not of the form {form}")
    fields = _object(path, "the probe", value)
    kinds = [kind for kind in _KINDS if fields.get(kind) is not None]
    if not kinds and "port" in fields:
        return _http(path, fields, _OLD_TIMEOUT)
    if len(kinds) != 1:
        raise _unusable(
            f"{path} has {' and '.join(kinds) or 'none'} of httpGet, tcpSocket and grpc; give it exactly one"
        )
    return _KINDS[kinds[0]](path, _object(path, kinds[0], fields[kinds[0]]), _timeout(path, fields))


def _http(path: str, action: Mapping[str, Any], timeout: float) -> Probe:
    scheme = action.get("scheme") or "HTTP"
    if not isinstance(scheme, str) or scheme.upper() not in {"HTTP", "HTTPS"}:
        raise _unusable(f"{path} has the scheme {scheme!r}; write HTTP or HTTPS")
    target = action.get("path") or "/"
    if not isinstance(target, str):
        raise _unusable(f"{path} has a path that is not text")
    target = quote(target.partition("#")[0], safe=_SAFE)
    headers = tuple(_header(path, each) for each in _list(path, "httpHeaders", action.get("httpHeaders")))
    target = target if target.startswith("/") else f"/{target}"
    return HttpProbe(_port(path, action), target, scheme.upper() == "HTTPS", headers, timeout)


def _tcp(path: str, action: Mapping[str, Any], timeout: float) -> Probe:
    return TcpProbe(_port(path, action), timeout)


def _grpc(path: str, action: Mapping[str, Any], timeout: float) -> Probe:
    service = action.get("service") or ""
    if not isinstance(service, str):
        raise _unusable(f"{path} has a service that is not text")
    return GrpcProbe(_port(path, action), service, timeout)


_KINDS = {"httpGet": _http, "tcpSocket": _tcp, "grpc": _grpc}


def _header(path: str, value: object) -> tuple[str, str]:
    pair = _object(path, "a header", value)
    name, content = pair.get("name"), pair.get("value", "")
    if not isinstance(name, str) or not isinstance(content, str) or not _HEADER_NAME.fullmatch(name.removeprefix(":")):
        raise _unusable(f"{path} has a header without a name and a value that HTTP can carry")
    if not content.isprintable() or not content.isascii():
        raise _unusable(f"{path} has a value of the header {name} that HTTP cannot carry")
    return "host" if name.lower() == ":authority" else name.lower(), content.strip()


def _port(path: str, action: Mapping[str, Any]) -> int:
    port = action.get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise _unusable(
            f"{path} has the port {port!r}; write a number from 1 to 65535, names are resolved at injection"
        )
    return port


def _timeout(path: str, fields: Mapping[str, Any]) -> float:
    seconds = fields.get("timeoutSeconds") or _TIMEOUT
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _LONGEST_TIMEOUT:
        raise _unusable(f"{path} has the timeoutSeconds {seconds!r}; write a number from 1 to {_LONGEST_TIMEOUT:.0f}")
    return float(seconds)


def _object(path: str, what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _unusable(f"{what} of {path} is not an object")
    return value


def _list(path: str, what: str, value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _unusable(f"{what} of {path} is not a list")
    return value


def _unusable(why: str) -> UsageError:
    return UsageError(f"cannot use --app-probers: {why}")
