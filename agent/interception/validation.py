"""Proves an interception: a connection to the pod, as the proxy makes one, must arrive at the proxy's inbound port."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agent.core.errors import MachineError
from agent.interception.options import Mode, Options
from agent.interception.rules import Family

_ORIGINAL_DESTINATION = 80  # SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
_TRANSPARENT = {Family.V4: (socket.SOL_IP, 19), Family.V6: (socket.IPPROTO_IPV6, 75)}  # IP_TRANSPARENT, see ip(7)
_FAMILIES = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}


def prove(options: Options, family: Family, port: int, timeout: float) -> None:
    """Connect to `port` of an address of the pod, as the proxy's user, and look where it arrives.

    Raises `MachineError` with the reason if it does not arrive at the inbound port, or with another destination.
    """
    try:
        with ExitStack() as stack:
            proxy = stack.enter_context(_listener(options, family, options.inbound_port))
            stack.enter_context(_listener(options, family, options.proxy_port))
            client = stack.enter_context(_client(options, family, port, timeout))
            proxy.settimeout(timeout)
            accepted = stack.enter_context(proxy.accept()[0])
            arrived = _original_port(accepted, options, family)
            client.close()
    except OSError as error:
        message = f"cannot prove the interception of {family}: {error.strerror or 'no connection arrives in time'}"
        raise MachineError(message) from None
    if arrived != port:
        message = f"cannot prove the interception of {family}: port {port} arrives as {arrived}"
        raise MachineError(message)


@contextmanager
def _listener(options: Options, family: Family, port: int) -> Iterator[socket.socket]:
    with socket.socket(_FAMILIES[family]) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is Family.V6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if options.mode is Mode.TPROXY:
            listener.setsockopt(*_TRANSPARENT[family], 1)
        listener.bind((family.any if options.mode is Mode.TPROXY else family.local_address, port))
        listener.listen()
        yield listener


@contextmanager
def _client(options: Options, family: Family, port: int, timeout: float) -> Iterator[socket.socket]:
    """Connect by a socket of the proxy's user: its owner is the one who made it."""
    with _as_user(options.uids[0]):
        client = socket.socket(_FAMILIES[family])
    with client:
        client.settimeout(timeout)
        client.bind((family.local_address, 0))
        client.connect((family.passthrough_address, port))
        yield client


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    own = os.geteuid()
    if own != 0:  # in an init container that runs as the proxy's user already
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


def _original_port(accepted: socket.socket, options: Options, family: Family) -> int:
    if options.mode is Mode.TPROXY:
        return int(accepted.getsockname()[1])
    level = socket.SOL_IP if family is Family.V4 else socket.IPPROTO_IPV6
    address = accepted.getsockopt(level, _ORIGINAL_DESTINATION, 28)
    return int(struct.unpack_from("!H", address, 2)[0])
