"""A server of a few lines that gets its sockets from systemd, and fails as a file tells it: `faulty_server.py FILE …`.

The first word of FILE at its start: `well`, `silent` (never accepts), `500`, `wrong` (the pair in `other.pem` beside
FILE), `dies`, `forks` (a child that stays).
"""

import http.server
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the pid; `/slow` takes a second."""

    protocol_version = "HTTP/1.1"
    status = 200

    def do_GET(self) -> None:  # the name that http.server calls
        """Answer one request."""
        if self.path == "/slow":
            time.sleep(1)
        body = b"%d\n" % os.getpid()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Serves on one inherited socket, with TLS if it has a context; ends when its last connection has."""

    daemon_threads = False
    context: ssl.SSLContext | None = None

    def __init__(self, inherited: socket.socket) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = inherited

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a client; its handshake is its thread's."""
        client, address = self.socket.accept()
        client.setblocking(True)
        return client, address

    def finish_request(self, request: object, client_address: object) -> None:
        """Shake hands, and answer."""
        assert isinstance(request, socket.socket)
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, *_: object) -> None:
        """Say nothing: a test may reset its connection."""


def passed(plain: Sequence[str], pair: Sequence[str]) -> list[Server]:
    """Return a server for each socket that systemd passes."""
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    servers = []
    for number, name in enumerate(os.environ["LISTEN_FDNAMES"].split(":"), 3):
        servers.append(Server(socket.socket(fileno=number)))
        if name not in plain:
            servers[-1].context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            servers[-1].context.load_cert_chain(*pair)
    return servers


def main(behaviour: Path, plain: str, *pair: str) -> None:
    """Serve on each socket; those of which the name is in `plain` have no TLS."""
    how = behaviour.read_text(encoding="ascii").split()[0]
    if how == "dies":
        sys.exit(3)
    if how == "forks":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    Handler.status = 500 if how == "500" else 200
    if how == "wrong":
        pair = (str(behaviour.with_name("other.pem")),)
    servers = passed(plain.split(","), pair)

    def end(*_: object) -> None:
        for each in servers:
            threading.Thread(target=each.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    if how == "silent":
        signal.pause()
    threads = [threading.Thread(target=each.serve_forever, args=(0.05,)) for each in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in servers:
        each.server_close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
