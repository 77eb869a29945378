"""Splits hot-restart messages into datagrams and reassembles them.

A message is its length (8 bytes, big-endian) and the serialised `HotRestartMessage`, cut into datagrams of at most 4096
bytes. Only the first datagram carries the length, and every message starts a new datagram. Measured on Envoy 1.36 and
1.40: 80,135 bytes arrive as 20 datagrams.
"""

import struct

from google.protobuf.message import DecodeError

from agent.core.errors import ProtocolError
from agent.handoff.hot_restart_pb2 import HotRestartMessage

DATAGRAM_LIMIT = 4096
MESSAGE_LIMIT = 1 << 20  # far above any real message (a forwarded packet); a larger announced length is malicious

_LENGTH = struct.Struct(">Q")


def cut(message: HotRestartMessage) -> list[bytes]:
    """Serialise a message into the datagrams that carry it, in order."""
    body = message.SerializeToString()
    whole = _LENGTH.pack(len(body)) + body
    return [whole[start : start + DATAGRAM_LIMIT] for start in range(0, len(whole), DATAGRAM_LIMIT)]


class Assembler:
    """Reassembles the datagrams of one sender into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected: int | None = None

    def feed(self, datagram: bytes) -> HotRestartMessage | None:
        """Add the next datagram; return the message it completes, or None.

        Raises `ProtocolError` for input that no correct peer sends; the channel is unusable afterwards.
        """
        if self._expected is None:
            datagram = self._begin(datagram)
        self._buffer += datagram
        if len(self._buffer) < (self._expected or 0):
            return None
        if len(self._buffer) > (self._expected or 0):
            message = f"cannot read a message: {len(self._buffer)} bytes arrived, but {self._expected} were announced"
            raise ProtocolError(message)
        return self._finish()

    def _begin(self, datagram: bytes) -> bytes:
        if len(datagram) < _LENGTH.size:
            message = f"cannot read a message: its first datagram has {len(datagram)} bytes, the length needs 8"
            raise ProtocolError(message)
        (self._expected,) = _LENGTH.unpack_from(datagram)
        if self._expected > MESSAGE_LIMIT:
            message = f"cannot read a message: it announces {self._expected} bytes, the limit is {MESSAGE_LIMIT}"
            raise ProtocolError(message)
        return datagram[_LENGTH.size :]

    def _finish(self) -> HotRestartMessage:
        body = bytes(self._buffer)
        self._buffer.clear()
        self._expected = None
        try:
            return HotRestartMessage.FromString(body)
        except DecodeError as error:
            message = f"cannot read a message: {error}"
            raise ProtocolError(message) from error
