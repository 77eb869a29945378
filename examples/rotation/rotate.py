"""Runs Envoy under the agent, with clients, rotations and faults, and counts the requests that failed."""

import argparse
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PORT = 18443
REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def write_pair(directory: Path) -> int:
    """Write a new key and a certificate that fits it, the key last; return the serial number."""
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


class Clients:
    """Threads that open a TLS connection for each request, one after the other, and count."""

    def __init__(self, number: int) -> None:
        self.served = 0
        self.failed = 0
        self.lost = 0  # in flight in a process that was killed
        self.killed_at = 0.0
        self.serial = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._threads = [threading.Thread(target=self._loop) for _ in range(number)]

    def start(self) -> None:
        """Begin at full speed."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def request(self) -> int:
        """One request on a new connection; return the serial number of the certificate. Raises `OSError`."""
        with socket.create_connection(("127.0.0.1", PORT), timeout=10) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each request waits for an ACK
            with self._context.wrap_socket(plain) as tls:
                certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
                tls.sendall(REQUEST)
                if not tls.recv(4096).startswith(b"HTTP/1.1 200"):
                    message = "not the answer that was expected"
                    raise OSError(message)
                return certificate.serial_number

    def _loop(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                serial = self.request()
            except OSError as error:
                self._count_failure(error, began)
            else:
                with self._lock:
                    self.served += 1
                    self.serial = serial

    def _count_failure(self, error: OSError, began: float) -> None:
        with self._lock:
            if began < self.killed_at:
                self.lost += 1
                return
            self.failed += 1
        print(f"FAILED: {error}", flush=True)


def serving_pid(run_directory: Path) -> int:
    """The process of the epoch that serves, as the agent remembers it."""
    epochs = json.loads((run_directory / "state.json").read_text())["epochs"]
    return next(epoch["pid"] for epoch in epochs if epoch["state"] == "serving")


def faults(scene: Path, clients: Clients) -> Iterator[str]:
    """What goes wrong between the rotations, again and again: `next` does it and says what it was."""
    certificate = scene / "certs" / "tls.crt"
    while True:
        yield ""
        certificate.write_text("garbage\n")
        yield "the certificate was overwritten with garbage"
        yield ""
        os.kill(serving_pid(scene / "run"), signal.SIGKILL)
        clients.killed_at = time.monotonic()
        yield "the serving Envoy was killed (SIGKILL); what was in flight in it is lost, and nothing else"


def wait_until_it_serves(agent: subprocess.Popen[bytes], clients: Clients) -> None:
    """Return when the first request is answered; exit if the agent does."""
    while agent.poll() is None:
        try:
            clients.request()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"the agent exited with {agent.returncode}")


def play(scene: Path, agent: subprocess.Popen[bytes], every: float, until: float) -> Clients:
    """Rotate and break things until the time is over."""
    clients = Clients(4)
    wait_until_it_serves(agent, clients)
    clients.start()
    mishaps = faults(scene, clients)
    for number in itertools.count(1):
        if time.monotonic() >= until:
            break
        wanted = write_pair(scene / "certs")
        written = time.monotonic()
        while clients.serial != wanted and time.monotonic() < written + 10:
            time.sleep(0.001)
        took = (time.monotonic() - written) * 1000
        counts = f"{clients.served} requests, failed: {clients.failed}"
        print(f"rotation {number}: new certificate served after {took:.0f} ms; {counts}", flush=True)
        time.sleep(every / 2)
        if mishap := next(mishaps):
            print(f"         fault: {mishap}", flush=True)
        time.sleep(every / 2)
    clients.stop()
    return clients


def main() -> int:
    """Make the scene, play, and tell how it went: exit 1 if a request failed that no SIGKILL took with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="between two rotations")
    parser.add_argument("--for", type=float, default=20.0, dest="length", metavar="SECONDS", help="how long it goes on")
    options = parser.parse_args()
    scene = Path(tempfile.mkdtemp(prefix="rotation-", dir="/tmp"))
    (scene / "certs").mkdir()
    shutil.copy(Path(__file__).with_name("envoy.yaml"), scene)
    write_pair(scene / "certs")
    command = [sys.executable, "-m", "agent", "--config", "envoy.yaml", "--certs", "certs", "--run-dir", "run"]
    with (scene / "agent.log").open("wb") as log:
        arguments = [*command, "--status-port", "0", "--", "-l", "error"]
        agent = subprocess.Popen(arguments, cwd=scene, stdout=log, stderr=log)
        try:
            clients = play(scene, agent, options.every, time.monotonic() + options.length)
        finally:
            agent.terminate()
            agent.wait()
    print((scene / "agent.log").read_text())
    shutil.rmtree(scene)
    print(f"{clients.served} requests served, {clients.lost} lost in a killed Envoy, failed: {clients.failed}")
    return 1 if clients.failed else 0


if __name__ == "__main__":
    sys.exit(main())
