"""Runs the application under the agent, with clients and rotations, and counts the requests that failed."""

import argparse
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
PORT = 18444
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
    """Makes requests one after the other, several on each connection, until it is stopped."""

    def __init__(self, over: threading.Event) -> None:
        super().__init__()
        self.served = 0
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
        connection = HTTPSConnection("127.0.0.1", PORT, timeout=10, context=self._context)
        try:
            for _ in range(ON_A_CONNECTION):
                connection.request("GET", "/")
                if isinstance(connection.sock, ssl.SSLSocket):
                    shown = connection.sock.getpeercert(binary_form=True) or b""
                    self.serial = x509.load_der_x509_certificate(shown).serial_number
                response = connection.getresponse()
                self.answer = response.read().decode().strip()
                if response.status != 200:
                    raise HTTPException(f"status {response.status}")
                self.served += 1
                if response.will_close:
                    return
        finally:
            connection.close()


def wait_for_service(agent: subprocess.Popen[bytes]) -> None:
    """Return when the first request is answered; exit if the agent exits or no request is answered in time."""
    client = Client(threading.Event())
    deadline = time.monotonic() + PATIENCE
    while agent.poll() is None and time.monotonic() < deadline:
        try:
            client.visit()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the application never answered")


def play(certs: Path, every: float, until: float) -> list[Client]:
    """Rotate until the time is over."""
    stop = threading.Event()
    clients = [Client(stop) for _ in range(3)]
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
    options = parser.parse_args()
    scene = Path(tempfile.mkdtemp(prefix="library-", dir="/tmp"))
    (scene / "certs").mkdir()
    shutil.copy(HERE / "app.yaml", scene)
    program = scene / "app.py"
    program.write_text((HERE / "app.py").read_text().replace("/usr/bin/env python3", sys.executable, 1))
    program.chmod(0o755)
    write_pair(scene / "certs")
    command = [sys.executable, "-m", "agent", "--proxy-bin", "./app.py", "--config", "app.yaml", "--certs", "certs"]
    with (scene / "agent.log").open("wb") as log:
        arguments = [*command, "--run-dir", "run", "--status-port", "0", "--drain-time", "2s"]
        agent = subprocess.Popen(arguments, cwd=scene, stdout=log, stderr=log)
        try:
            wait_for_service(agent)
            clients = play(scene / "certs", options.every, time.monotonic() + options.length)
        finally:
            agent.terminate()
            agent.wait()
            print((scene / "agent.log").read_text())
            shutil.rmtree(scene)
    failures = [failure for client in clients for failure in client.failures]
    print("".join(f"FAILED: {failure}\n" for failure in failures), end="")
    print(f"{sum(client.served for client in clients)} requests served, failed: {len(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
