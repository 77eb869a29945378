"""Renders the documents of Envoy's admin interface from plain values, one function per path.

Field names, types and order, content types and status codes match Envoy 1.40.
"""

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

from agent.handoff.socket_store import ListenAddress
from agent.http.message import Response

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Json = dict[str, Any]
TEXT = "text/plain; charset=UTF-8"
JSON = "application/json"
HTML = "text/html; charset=UTF-8"
LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING = "LIVE", "DRAINING", "PRE_INITIALIZING", "INITIALIZING"

_DATE = "%Y-%m-%dT%H:%M:%SZ"


def text(body: str, status: int = 200, content_type: str = TEXT) -> Response:
    """Return a response with Envoy's usual headers."""
    headers = (
        ("content-type", content_type),
        ("cache-control", "no-cache, max-age=0"),
        ("x-content-type-options", "nosniff"),
    )
    return Response(status, body.encode("utf-8", "replace"), headers)


def document(tree: Json) -> Response:
    """Return a JSON response formatted like Envoy's: indented by one."""
    return text(f"{json.dumps(tree, indent=1, ensure_ascii=False)}\n", content_type=JSON)


def parameters(target: str) -> dict[str, str]:
    """Return the query parameters of a request target; the first value wins, as in Envoy."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(target.partition("?")[2], keep_blank_values=True):
        found.setdefault(name, value)
    return found


def ready(state: str) -> Response:
    """Answer /ready: the name of the state, with status 200 only while it is LIVE."""
    return text(f"{state}\n", 200 if state == LIVE else 503)


def post_required(method: str) -> Response:
    """Return Envoy's response to a mutation that is not sent by POST."""
    return text(f"Method {method} not allowed, POST required.", 405)


# /certs


@dataclass(frozen=True, slots=True)
class Pem:
    """A file of certificates with the bytes loaded from it; the path may since hold others."""

    path: str
    content: bytes

    @classmethod
    def read(cls, path: str) -> Self:
        """Read it now; raises OSError."""
        return cls(path, Path(path).read_bytes())


@dataclass(frozen=True, slots=True)
class Context:
    """The certificates of one TLS context: the chains it presents and the authorities it trusts."""

    chains: Sequence[Pem] = ()
    authorities: Pem | None = None


def certs(contexts: Iterable[Context], now: datetime) -> Response:
    """Answer /certs: of each context, the leaves and the authorities. `now` is aware."""
    return document({"certificates": [_context(context, now) for context in contexts]})


def _context(context: Context, now: datetime) -> Json:
    bundle = context.authorities
    authorities = [] if bundle is None else _certificates(bundle)
    return {
        "ca_cert": [] if bundle is None else [_details(bundle.path, each, now) for each in authorities],
        "cert_chain": [_details(pem.path, leaf, now) for pem in context.chains for leaf in _certificates(pem)[:1]],
    }


def _certificates(pem: Pem) -> list["Certificate"]:
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415  # 50 ms, needed only here

    with warnings.catch_warnings(action="ignore"):  # odd serial numbers are not reported here
        try:
            return load_pem_x509_certificates(pem.content)
        except ValueError:
            return []


def _details(path: str, certificate: "Certificate", now: datetime) -> Json:
    with warnings.catch_warnings(action="ignore"):
        until, second = certificate.not_valid_after_utc, now.replace(microsecond=0)  # Envoy counts whole seconds
        return {
            "path": path,
            "serial_number": _whole_bytes(certificate.serial_number),
            "subject_alt_names": _alternative_names(certificate),
            "days_until_expiration": str(max(0, (until - second).days)),
            "valid_from": certificate.not_valid_before_utc.strftime(_DATE),
            "expiration_time": until.strftime(_DATE),
        }


def _whole_bytes(serial: int) -> str:
    digits = f"{serial:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _alternative_names(certificate: "Certificate") -> list[Json]:
    """Return alternative names in Envoy's order: by kind, not by order in the certificate."""
    from cryptography.x509 import (  # noqa: PLC0415
        DNSName,
        ExtensionNotFound,
        IPAddress,
        SubjectAlternativeName,
        UniformResourceIdentifier,
    )

    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError, KeyError):  # KeyError: cryptography before 50, for a damaged name
        return []
    return [
        *({"dns": name} for name in names.get_values_for_type(DNSName)),
        *({"uri": name} for name in names.get_values_for_type(UniformResourceIdentifier)),
        *({"ip_address": str(number)} for number in names.get_values_for_type(IPAddress)),
    ]


# /listeners


def listeners(bound: Iterable[tuple[str, Sequence[ListenAddress]]], form: str = "text") -> Response:
    """Answer /listeners: each listener's name and actual addresses; JSON if `form` is `json`."""
    if form == "json":
        statuses = [_status(name, places) for name, places in bound if places]
        return document({"listener_statuses": statuses} if statuses else {})
    return text("".join(f"{name}::{_spelled(place)}\n" for name, places in bound for place in places))


def _spelled(place: ListenAddress) -> str:
    return place.address.removeprefix("unix://").removeprefix("tcp://").removeprefix("udp://")


def _status(name: str, places: Sequence[ListenAddress]) -> Json:
    status: Json = {"name": name, "local_address": _address(places[0])}
    if len(places) > 1:
        status["additional_local_addresses"] = [_address(place) for place in places[1:]]
    return status


def _address(place: ListenAddress) -> Json:
    if place.address.startswith("unix://"):
        return {"pipe": {"path": _spelled(place)}}
    host, _, port = _spelled(place).rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


# /init_dump, /server_info


def init_dump(waiting: Mapping[str, Sequence[str]]) -> Response:
    """Answer /init_dump: for each init manager that is not ready, the targets it waits for."""
    dumps = [
        {"name": f"init manager {name}", **({"target_names": list(targets)} if targets else {})}
        for name, targets in waiting.items()
    ]
    return document({"unready_targets_dumps": dumps} if dumps else {})


@dataclass(frozen=True, slots=True)
class Server:
    """The content of /server_info. Durations are in seconds; `options` and `node` are documents."""

    version: str
    state: str
    uptime_current_epoch: float
    uptime_all_epochs: float
    hot_restart_version: str
    options: Json
    node: Json
    hot_restart_initializing: bool = False


def server_info(server: Server) -> Response:
    """Answer /server_info."""
    tree = {
        "version": server.version,
        "state": server.state,
        "uptime_current_epoch": whole_seconds(server.uptime_current_epoch),
        "uptime_all_epochs": whole_seconds(server.uptime_all_epochs),
        "hot_restart_version": server.hot_restart_version,
        "command_line_options": server.options,
        "node": server.node,
        "hot_restart_initializing": server.hot_restart_initializing,
    }
    return document(tree)


def whole_seconds(span: float) -> str:
    """Return a duration in whole seconds, formatted like Envoy's."""
    return f"{max(0, math.floor(span))}s"
