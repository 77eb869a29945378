"""Clients and servers that tell where a connection arrives. `python -m tests.system.intercepted serve|ask|hammer …`.

`serve ADDRESS…`   answer each line of a client with the port here, the destination that it meant, and its address
`ask HOST PORT`    connect, send a line, and print the answer, or the error
`hammer HOST PORT` do that on new connections until standard input ends; print how many had which answer, as JSON
"""

import argparse
import json
import os
import select
import socket
import struct
import sys
import threading
from collections import Counter

SO_ORIGINAL_DST = 80
TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}  # IP_TRANSPARENT
QUERIES = 15053
TIMEOUT = 30.0


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of a numeric address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def original(connection: socket.socket) -> str:
    """Return the destination that the client meant, as host:port."""
    level = socket.IPPROTO_IPV6 if connection.family == socket.AF_INET6 else socket.SOL_IP
    try:
        data = connection.getsockopt(level, SO_ORIGINAL_DST, 28)
    except OSError:  # nobody has changed it
        host, port = connection.getsockname()[:2]
        return f"{host}:{port}"
    (port,) = struct.unpack_from("!H", data, 2)
    address = data[8:24] if connection.family == socket.AF_INET6 else data[4:8]
    return f"{socket.inet_ntop(connection.family, address)}:{port}"


def listen(address: str, *, transparent: bool) -> socket.socket:
    """Listen at host:port."""
    host, _, port = address.rpartition(":")
    listener = socket.socket(family_of(host))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        listener.setsockopt(*TRANSPARENT[listener.family], 1)
    listener.bind((host, int(port)))
    listener.listen(1024)
    return listener


def converse(connection: socket.socket, port: int) -> None:
    """Answer each line."""
    with connection:
        answer = f"{port} {original(connection)} {connection.getpeername()[0]}\n".encode()
        try:
            while connection.recv(1024):
                connection.sendall(answer)
        except OSError:
            return


def accept(listener: socket.socket, port: int) -> None:
    """Answer every client of a listener, each in a thread."""
    while True:
        connection = listener.accept()[0]
        threading.Thread(target=converse, args=(connection, port), daemon=True).start()


def answer_queries(host: str) -> None:
    """Answer each datagram at the port of name servers behind a proxy with its number."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as server:
        server.bind((host, QUERIES))
        while True:
            _, client = server.recvfrom(1024)
            server.sendto(b"15053\n", client)


def serve(addresses: list[str], *, transparent: bool) -> None:
    """Serve until the process is ended."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        if int(port) == QUERIES:
            threading.Thread(target=answer_queries, args=(host,), daemon=True).start()
            continue
        listener = listen(address, transparent=transparent)
        threading.Thread(target=accept, args=(listener, int(port)), daemon=True).start()
    print("ready", flush=True)  # noqa: T201
    threading.Event().wait()


def ask(host: str, port: int, source: str = "", *, udp: bool = False) -> str:
    """Return the answer to one line, or the error."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(family_of(host), kind) as client:
        client.settimeout(TIMEOUT)
        try:
            if source:
                client.bind((source, 0))
            client.connect((host, port))
            client.sendall(b"where\n")
            return client.recv(1024).decode().strip() or "closed"
        except OSError as error:
            return type(error).__name__


def hammer(host: str, port: int, clients: int) -> Counter[str]:
    """Ask on new connections until standard input ends; count the first words of the answers.

    All clients connect at once, then all answers are awaited, then they do so again: the accept queues are full.
    """
    counts: Counter[str] = Counter()
    lock, is_over = threading.Lock(), threading.Event()

    def look() -> None:
        if select.select([sys.stdin], [], [], 0)[0]:
            is_over.set()

    together = threading.Barrier(clients, action=look)

    def client() -> None:
        while together.wait() >= 0 and not is_over.is_set():
            answer = ask(host, port).partition(" ")[0]
            with lock:
                counts[answer] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def main() -> None:
    """Do what the command line says, as another user if it names one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve", "ask", "hammer"])
    parser.add_argument("places", nargs="+")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--source", default="")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--udp", action="store_true")
    parser.add_argument("--transparent", action="store_true")
    given = parser.parse_args()
    if given.gid is not None:
        os.setgroups([])
        os.setgid(given.gid)
    if given.uid is not None:
        os.setuid(given.uid)
    if given.verb == "serve":
        serve(given.places, transparent=given.transparent)
    elif given.verb == "ask":
        host, *ports = given.places
        answers = [ask(host, int(port), given.source, udp=given.udp) for port in ports]
        print("\n".join(answers))  # noqa: T201
    else:
        print(json.dumps(hammer(given.places[0], int(given.places[1]), given.clients)))  # noqa: T201


if __name__ == "__main__":
    main()
