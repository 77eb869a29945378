"""Reads addresses and data sources."""

import base64
import binascii
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.model import Address, Pipe, SocketAddress

ADDRESS = "envoy.config.core.v3.Address"
SOURCE = "envoy.config.core.v3.DataSource"
INLINE = "<inline>"  # in place of a path, as in Envoy's /certs

_PROTOCOLS = {"TCP": 0, "UDP": 1}
_LONGEST_PATH = 107  # bytes; sun_path has 108, with a final zero byte
_NOWHERE = SocketAddress("127.0.0.1", 0)


def address(holder: Message, field: str = "address", *, names: bool = False) -> Address:
    """Return the address in a required field; its host is numeric, or with `names` also a name."""
    message = holder.message(field, ADDRESS, required=True)
    if message is None:
        return _NOWHERE
    chosen = message.one_of("socket_address", "pipe")
    if chosen == "pipe":
        return _pipe(message)
    return _socket_address(message, names=names) if chosen else _NOWHERE


def _pipe(holder: Message) -> Address:
    message = holder.message("pipe", "envoy.config.core.v3.Pipe", required=True)
    assert message is not None
    path = message.text("path", required=True)
    mode = message.number("mode", high=0o777)
    _require_path(message, "path", path)
    if len(path.encode()) > _LONGEST_PATH:
        message.refuse("path", f"it is longer than {_LONGEST_PATH} bytes")
    if path.startswith("@") and mode:
        message.refuse("mode", "an abstract socket has no mode")
    return Pipe(path, mode)


def _socket_address(holder: Message, *, names: bool) -> Address:
    message = holder.message("socket_address", "envoy.config.core.v3.SocketAddress", required=True)
    assert message is not None
    message.choice("protocol", _PROTOCOLS, {"TCP": None}, None)
    host = message.text("address", required=True)
    if not message.has("port_value"):
        message.missing("port_value")
    port = message.number("port_value", high=65535)
    dual_stack = message.truth("ipv4_compat", default=False)
    number = _number(host)
    if number is None and host and not names:
        message.refuse("address", f"{host} is not an address of numbers")
    return SocketAddress(number or host, port, dual_stack)


def _number(host: str) -> str | None:
    """Return a numeric host in canonical form; None for a name."""
    try:
        number = ip_address(host)
    except ValueError:
        return None
    if isinstance(number, IPv6Address) and number.ipv4_mapped is not None:
        return f"::ffff:{number.ipv4_mapped}"
    return number.compressed


def is_number(host: str) -> bool:
    """Return whether a host is numeric, and so needs no resolving."""
    return _number(host) is not None


def filename(holder: Message, field: str, *, required: bool = False) -> str | None:
    """Return the path of a data source that must be a file; None if the field is absent."""
    message = holder.message(field, SOURCE, required=required)
    if message is None:
        return None
    for other in ("inline_string", "inline_bytes"):
        if message.has(other):
            message.refuse(other, f"{NOT_SUPPORTED} here, only filename")
            return None
    path = message.text("filename", required=True)
    _require_path(message, "filename", path)
    return path


def _require_path(message: Message, field: str, path: str) -> None:
    if "\0" in path:
        message.refuse(field, "it holds a zero byte")


def content(holder: Message, field: str) -> bytes:
    """Return the bytes of a data source; a file is read now."""
    return loaded(holder, field)[1]


def loaded(holder: Message, field: str) -> tuple[str, bytes]:
    """Return the path of a data source, `<inline>` without one, and its bytes; a file is read now."""
    message = holder.message(field, SOURCE)
    if message is None:
        return INLINE, b""
    chosen = message.one_of("filename", "inline_string", "inline_bytes")
    if chosen == "inline_string":
        return INLINE, message.text("inline_string").encode()
    if chosen == "inline_bytes":
        return INLINE, _decoded(message)
    return _file(message) if chosen else (INLINE, b"")


def _decoded(message: Message) -> bytes:
    text = message.text("inline_bytes").replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        message.refuse("inline_bytes", "it is not base64")
        return b""


def _file(message: Message) -> tuple[str, bytes]:
    path = message.text("filename", required=True)
    if not path:
        return path, b""
    if "\n" in path:  # PEM text in the wrong field, which no message may quote
        message.refuse("filename", "it is not a path: it has several lines")
        return path, b""
    try:
        return path, Path(path).read_bytes()
    except (OSError, ValueError) as error:
        message.refuse("filename", f"cannot read {path}: {getattr(error, 'strerror', None) or error}")
        return path, b""
