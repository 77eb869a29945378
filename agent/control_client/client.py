"""A client for the control socket and for health endpoints, on plain blocking sockets.

To an agent it sends HTTP/1.0 requests, so that the connection's end marks the response's end and no decoding is needed.
A URL may be a proxy's, which takes HTTP/1.1 only. It uses `_socket`, the C module below `socket`: importing `socket`
takes longer than all other work.
"""

import _socket
import sys
import time

from agent.control_client.run_dir import NoAgent, distrusted, forbidden, is_trusted, lives, nobody_there
from agent.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 65536
_UPGRADE = 5.0  # seconds that an agent may take to execute its new program
_PAUSE = 0.02
_LONGEST = 1e9  # seconds, some thirty years: more than the kernel takes is an error
_PEER = 12  # bytes of struct ucred: pid, uid, gid


class Exchange:
    """One request and its response.

    `deadline`, in monotonic seconds, may be changed in between; None means no limit. Raises `OSError` (including
    `TimeoutError`) if the connection ends too early.
    """

    def __init__(self, line: _socket.socket, deadline: float | None, version: str = "1.0") -> None:
        self.deadline = deadline
        self._line = line
        self._version = version
        self._chunked = False
        self._data = b""
        self._ended = False

    def connect(self, address: "str | tuple[object, ...]") -> None:
        """Connect, before the deadline."""
        self._line.settimeout(self._patience())
        self._line.connect(address)

    @property
    def peer(self) -> int:
        """The pid of the process listening at a Unix socket; 0 if not visible here."""
        return self._credential(0)

    @property
    def user(self) -> int:
        """The uid of the process listening at a Unix socket."""
        return self._credential(4)

    def _credential(self, at: int) -> int:
        found = self._line.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _PEER)
        return int.from_bytes(found[at : at + 4], sys.byteorder)

    def ask(self, method: str, target: str, host: str = "agent", body: bytes = b"") -> int:
        """Send a request; return the response's status as soon as it arrives."""
        self._line.settimeout(self._patience())
        headers = f"host: {host}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        self._line.sendall(f"{method} {target} HTTP/{self._version}\r\n{headers}".encode() + body)
        head = self._until(b"\r\n\r\n")
        words = head.split(maxsplit=2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise _unparsable()
        fields = (field.partition(b":") for field in head.lower().split(b"\r\n")[1:])
        self._chunked = any(name == b"transfer-encoding" and b"chunked" in value for name, _, value in fields)
        return int(words[1])

    def lines(self) -> "Iterator[str]":
        """Yield the lines of the response as they arrive."""
        while True:
            line = self._until(b"\n")
            if not line:
                return
            yield printable(line.decode(errors="replace").rstrip("\n"))

    def text(self) -> str:
        """Return the rest of the response as one line."""
        lines = self.rest().decode(errors="replace").split("\n")
        return " ".join(printable(line) for line in lines).strip()

    def rest(self) -> bytes:
        """Return the rest of the response."""
        if not self._chunked:
            return self._read_to_end()
        body = b""
        while (size := _chunk_size(self._until(b"\n"))) > 0:
            body += self._exactly(size + len(b"\r\n"))[:size]
        return body

    def _read_to_end(self) -> bytes:
        while not self._ended:
            self._receive()
        body, self._data = self._data, b""
        return body

    def _exactly(self, size: int) -> bytes:
        while len(self._data) < size and not self._ended:
            self._receive()
        if len(self._data) < size:
            raise _unparsable()
        found, self._data = self._data[:size], self._data[size:]
        return found

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        self._line.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._data and not self._ended:
            self._receive()
        found, mark, self._data = self._data.partition(mark)
        return found + mark

    def _receive(self) -> None:
        self._line.settimeout(self._patience())
        data = self._line.recv(_CHUNK)
        self._data += data
        self._ended = not data

    def _patience(self) -> float | None:
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, _LONGEST)


def _unparsable() -> ConnectionError:
    return ConnectionError("the answer cannot be parsed")


def _chunk_size(line: bytes) -> int:
    """Return the size in the line before a chunk; 0 before the end. Raises `ConnectionError`."""
    digits = line.partition(b";")[0].strip()
    if not digits.isalnum():
        raise _unparsable()
    try:
        return int(digits, 16)
    except ValueError:
        raise _unparsable() from None


def at_control(directory: str, deadline: float | None) -> Exchange:
    """Connect to the agent of a run directory; retry while it replaces itself in an upgrade.

    Raises `NoAgent` if there is none, `MachineError` if access is denied or the agent is not trusted.
    """
    patience = time.monotonic() + _UPGRADE
    if deadline is not None:
        patience = min(patience, deadline)
    while True:
        try:
            return _at_control(directory, deadline)
        except NoAgent:
            if time.monotonic() >= patience or not lives(directory):
                raise
            time.sleep(_PAUSE)


def _at_control(directory: str, deadline: float | None) -> Exchange:
    exchange = Exchange(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM), deadline)
    try:
        exchange.connect(f"{directory}/control")
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        exchange.close()
        raise nobody_there(directory) from None
    except PermissionError:
        exchange.close()
        raise forbidden(directory) from None
    except OSError as error:
        exchange.close()
        message = f"cannot reach the agent at {directory}: {explain(error)}"
        raise NoAgent(message) from error
    if not is_trusted(exchange.user, directory):
        user = exchange.user
        exchange.close()
        raise distrusted(user, directory)
    return exchange


def at_url(url: str, deadline: float) -> tuple[Exchange, str, str]:
    """Connect to http://host:port/path; return the exchange, the host and the path.

    Raises `OSError`, `UsageError`.
    """
    host, port, path = split(url)
    error: OSError = ConnectionRefusedError("no address")
    for family, kind, protocol, _, address in _socket.getaddrinfo(host.encode(), port, type=_socket.SOCK_STREAM):
        exchange = Exchange(_socket.socket(family, kind, protocol), deadline, "1.1")
        try:
            exchange.connect(address)
        except OSError as failure:
            exchange.close()
            error = failure
        else:
            return exchange, host, path
    raise error


def reason_of_page(url: str, deadline: float) -> str:
    """Return why a page does not answer 200, empty if it does. Raises `UsageError`."""
    try:
        exchange, host, path = at_url(url, deadline)
    except OSError as error:
        return f"cannot reach {url}: {explain(error)}"
    try:
        status = exchange.ask("GET", path, host)
        return "" if status == 200 else exchange.text() or f"{url} answers {status}"
    except OSError as error:
        return f"cannot read {url}: {explain(error)}"
    finally:
        exchange.close()


def split(url: str) -> tuple[str, int, str]:
    """Split a URL into host, port and path. Raises `UsageError`."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, _, port = authority.rpartition(":") if authority.rpartition("]")[2].count(":") else (authority, "", "80")
    host = host.strip("[]")
    if scheme != "http" or not host or not port.isdecimal() or not url.isascii() or not url.isprintable():
        message = f"cannot use the address {url}: write it like http://127.0.0.1:15020/healthz/ready"
        raise UsageError(message)
    return host, int(port), slash + path or "/"


def printable(text: str) -> str:
    """Replace unprintable characters other than tabs, so that text cannot control a terminal."""
    return "".join(each if each.isprintable() or each == "\t" else "?" for each in text)


def explain(error: OSError) -> str:
    """Return a short reason for an error, in lower case."""
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ConnectionResetError):
        return "it closed the connection"
    reason = error.strerror or str(error)
    return reason if reason[:2].isupper() else reason[:1].lower() + reason[1:]
