"""Runs a server under the agent, with clients and rotations, and counts the requests that failed.

`play.py --port 18446 --files nginx.conf -- --proxy-bin nginx --config nginx.conf --certs certs`: what follows `--` is
the agent's. The files are copied to the directory that it runs in, where `certs` has the certificate.
"""

import argparse
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPSConnection, RemoteDisconnected
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 120.0  # seconds; a busy machine may start slowly
ON_A_CONNECTION = 10  # requests a client makes before it opens a new connection


def write_pair(directory: Path) -> int:
    """Write a new key and a certificate that fits it; return the serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "tls.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return certificate.serial_number


class Client(threading.Thread):
    """Makes requests one after the other, several on each connection, until it is stopped.

    Like every client library, it repeats a request that met the end of an idle connection.
    """

    def __init__(self, port: int, over: threading.Event) -> None:
        super().__init__()
        self.served = 0
        self.repeated = 0  # requests that met the end of an idle connection: nothing came back, and a new one served
        self._port = port
        self.failures: list[str] = []
        self.serial = 0  # of the last certificate received
        self.answer = ""
        self._over = over
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def run(self) -> None:
        """Make requests."""
        while not self._over.is_set():
            try:
                self.visit()
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))

    def visit(self) -> None:
        """Make requests on one connection, until the server asks for another. Raises when one of them fails."""
        connection = HTTPSConnection("127.0.0.1", self._port, timeout=10, context=self._context)
        try:
            for number in range(ON_A_CONNECTION):
                try:
                    connection.request("GET", "/")
                    if isinstance(connection.sock, ssl.SSLSocket):
                        shown = connection.sock.getpeercert(binary_form=True) or b""
                        self.serial = x509.load_der_x509_certificate(shown).serial_number
                    response = connection.getresponse()
                except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    if not number:
                        raise
                    self.repeated += 1
                    return
                self.answer = response.read().decode().strip()
                if response.status != 200:
                    raise HTTPException(f"status {response.status}")
                self.served += 1
                if response.will_close:
                    return
        finally:
            connection.close()


def wait_for_service(agent: subprocess.Popen[bytes], port: int) -> None:
    """Return when the first request is answered; exit if the agent exits or no request is answered in time."""
    client = Client(port, threading.Event())
    deadline = time.monotonic() + PATIENCE
    while agent.poll() is None and time.monotonic() < deadline:
        try:
            client.visit()
        except (OSError, HTTPException):
            time.sleep(0.05)
        else:
            return
    sys.exit("the server never answered")


def play(certs: Path, port: int, every: float, until: float) -> list[Client]:
    """Rotate until the time is over."""
    stop = threading.Event()
    clients = [Client(port, stop) for _ in range(3)]
    for client in clients:
        client.start()
    number = 0
    while time.monotonic() < until:
        number += 1
        wanted, written = write_pair(certs), time.monotonic()
        while any(client.serial != wanted for client in clients) and time.monotonic() < written + PATIENCE:
            time.sleep(0.001)
        took = (time.monotonic() - written) * 1000
        served, failed = sum(each.served for each in clients), sum(len(each.failures) for each in clients)
        said = f"rotation {number}: every client has the new certificate after {took:.0f} ms ({clients[0].answer})"
        print(f"{said}; {served} requests, failed: {failed}", flush=True)
        time.sleep(every)
    stop.set()
    for client in clients:
        client.join()
    return clients


def main() -> int:
    """Run the agent and the clients, and print the result: exit 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="time between two rotations")
    parser.add_argument("--for", type=float, default=10.0, dest="length", metavar="SECONDS", help="duration of the run")
    parser.add_argument("--port", type=int, required=True, help="where the server listens")
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="files to copy beside the certificates")
    parser.add_argument("agent", nargs="+", metavar="AGENT_OPTION", help="the agent's options, after --")
    options = parser.parse_args()
    scene = Path(tempfile.mkdtemp(prefix="example-", dir="/tmp"))
    (scene / "certs").mkdir()
    for each in options.files:
        shutil.copy(each, scene)
    write_pair(scene / "certs")
    at = options.agent.index("--") if "--" in options.agent else len(options.agent)
    own = ["--run-dir", "run", "--status-port", "0", "--drain-time", "2s"]
    command = [sys.executable, "-m", "agent", *options.agent[:at], *own, *options.agent[at:]]
    with (scene / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, cwd=scene, stdout=log, stderr=log)
        try:
            wait_for_service(agent, options.port)
            clients = play(scene / "certs", options.port, options.every, time.monotonic() + options.length)
        finally:
            agent.terminate()
            agent.wait()
            print((scene / "agent.log").read_text())
            shutil.rmtree(scene)
    failures = [failure for client in clients for failure in client.failures]
    print("".join(f"FAILED: {failure}\n" for failure in failures), end="")
    repeated = sum(client.repeated for client in clients)
    again = f", {repeated} of them again at the end of an idle connection" if repeated else ""
    print(f"{sum(client.served for client in clients)} requests served{again}, failed: {len(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
