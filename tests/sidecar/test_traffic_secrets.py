"""Certificates and authorities are replaced while connections are open and arrive."""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.sidecar.model import (
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Match,
    TcpProxy,
    UpstreamTls,
)
from tests.pki import Authority, Leaf
from tests.sidecar.secret_plane import Json, SecretPlane, inline, pair_of, plane, raw, secret_of, trusted
from tests.sidecar.secret_stand import (
    BY_SECRET,
    CLIENT_CA,
    ECHO,
    FACTORY,
    SERVER,
    issued,
    serial,
    serial_of,
    served,
    serving,
    talks,
)
from tests.sidecar.stand import (
    authority,
    cluster,
    echo,
    end_of,
    leave,
    listener,
    origin,
    visitor,
    written,
    written_ca,
)

# Certificates towards clients


async def test_the_first_secret_is_served(tmp_path: Path) -> None:
    leaf = issued()
    async with plane(tmp_path) as control, serving(control, {"server": pair_of(leaf)}, ECHO) as stand:
        assert await served(stand) == leaf.certificate.serial_number
        assert stand.stat("sds.server.update_success") == 1
        assert stand.of_listener(f"{FACTORY}.ssl_context_update_by_sds") == 1
        assert stand.traffic.texts() == {"sds.server.version_text": "1"}
        filled = stand.traffic.filled(BY_SECRET)
        assert filled is not None
        assert [str(each.chain) for each in filled.certificates] == ["sds:server/certificate_chain"]


async def test_a_new_secret_is_for_new_connections_and_old_ones_live_on(tmp_path: Path) -> None:
    old, new = issued(), issued()
    async with plane(tmp_path) as control, serving(control, {"server": pair_of(old)}, ECHO) as stand:
        kept = await stand.connect(tls=visitor())
        assert await control.give("2", "server", pair_of(new)) == "2"
        assert await served(stand) == new.certificate.serial_number
        assert await talks(kept)
        assert serial(kept) == old.certificate.serial_number
        await leave(kept)


async def test_no_connection_fails_while_secrets_are_replaced(tmp_path: Path) -> None:
    leaves = [issued() for _ in range(6)]
    known = {leaf.certificate.serial_number for leaf in leaves}
    got: list[int | None] = []
    async with plane(tmp_path) as control, serving(control, {"server": pair_of(leaves[0])}, ECHO) as stand:
        replacing = asyncio.ensure_future(replace(control, leaves[1:]))
        while not replacing.done():
            got += await asyncio.gather(*(served(stand) for _ in range(8)))
        await replacing
        assert await served(stand) == leaves[-1].certificate.serial_number
    assert set(got) <= known
    assert len(set(got)) > 1, "connections arrived before and after a replacement"


async def replace(control: SecretPlane, leaves: Sequence[Leaf]) -> None:
    for number, leaf in enumerate(leaves, 2):
        assert await control.give(str(number), "server", pair_of(leaf)) == str(number)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("other key", "cannot use the private key sds:server/private_key: it does not match sds:server/certificate_ch"),
        ("garbage", "cannot load the certificate chain sds:server/certificate_chain: no certificate in it"),
        ("encrypted", "the key is encrypted"),
        ("no document", "it is not a JSON object"),
        ("password", "tls_certificate.password: not supported by sidecar"),
    ],
)
async def test_a_bad_secret_is_refused_and_the_old_one_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, said: str
) -> None:
    old, new = issued(), issued()
    key = new.key_pem.decode()
    bad: dict[str, Json] = {
        "other key": pair_of(new, issued().key_pem),
        "garbage": {"tls_certificate": {"certificate_chain": inline(b"x"), "private_key": inline(new.key_pem)}},
        "encrypted": pair_of(new, new.encrypted_key_pem()),
        "password": {"tls_certificate": {**pair_of(new)["tls_certificate"], "password": {"inline_string": key}}},
    }
    async with plane(tmp_path) as control, serving(control, {"server": pair_of(old)}, ECHO) as stand:
        if kind == "no document":
            assert (await control.send("server", raw(key.encode()))).version == "1"
        else:
            assert await control.give("2", "server", bad[kind]) == "1"
        assert await served(stand) == old.certificate.serial_number
        assert (stand.stat("sds.server.update_rejected"), stand.stat("sds.server.update_success")) == (1, 1)
        assert await control.give("3", "server", pair_of(new)) == "3"
        assert await served(stand) == new.certificate.serial_number
    [warned] = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said in warned
    assert "PRIVATE" not in warned


async def test_an_absent_control_plane_changes_nothing(tmp_path: Path) -> None:
    old, new = issued(), issued()
    async with plane(tmp_path) as control, serving(control, {"server": pair_of(old)}, ECHO) as stand:
        await control.close()
        while stand.stat("sds.server.update_failure") < 3:  # noqa: ASYNC110  # shared memory sends no event
            await asyncio.sleep(0)
        assert await served(stand) == old.certificate.serial_number
        await control.open()
        assert await control.give("2", "server", pair_of(new)) == "2"
        assert await served(stand) == new.certificate.serial_number


async def test_two_secrets_of_a_listener_are_chosen_by_name(tmp_path: Path) -> None:
    first, second, third = issued("a.example"), issued("b.example"), issued("b.example")
    both = DownstreamTls((), certificate_secrets=(SERVER, secret_of("second")))
    async with plane(tmp_path) as control:
        secrets = {"server": pair_of(first), "second": pair_of(second)}
        async with serving(control, secrets, [listener(Echo(), tls=both)]) as stand:
            assert await served(stand) == first.certificate.serial_number
            assert await served(stand, sni="b.example") == second.certificate.serial_number
            await control.give("2", "second", pair_of(third))
            assert await served(stand) == first.certificate.serial_number
            assert await served(stand, sni="b.example") == third.certificate.serial_number


async def test_two_secrets_at_once_are_both_in_use(tmp_path: Path) -> None:
    both = DownstreamTls((), certificate_secrets=(SERVER, secret_of("second")))
    first, second = [issued("a.example") for _ in range(2)], [issued("b.example") for _ in range(2)]
    async with plane(tmp_path) as control:
        secrets = {"server": pair_of(first[0]), "second": pair_of(second[0])}
        async with serving(control, secrets, [listener(Echo(), tls=both)]) as stand:
            await asyncio.gather(
                control.give("2", "server", pair_of(first[1])), control.give("2", "second", pair_of(second[1]))
            )
            assert await served(stand) == first[1].certificate.serial_number
            assert await served(stand, sni="b.example") == second[1].certificate.serial_number


async def test_each_chain_has_its_secret_and_one_poll_is_enough_for_all(tmp_path: Path) -> None:
    chains = tuple(
        FilterChain(Echo(), match=Match((name,)), tls=DownstreamTls((), certificate_secrets=(source,), alpn=alpn))
        for name, source, alpn in (
            ("a.example", SERVER, ()),
            ("b.example", secret_of("second"), ()),
            ("c.example", SERVER, ("x",)),
        )
    )
    first, second = issued("a.example", "c.example"), issued("b.example")
    async with plane(tmp_path) as control:
        secrets = {"server": pair_of(first), "second": pair_of(second)}
        async with serving(control, secrets, [listener(Echo())._replace(chains=chains)]) as stand:
            got = [await served(stand, sni=name) for name in ("a.example", "b.example", "c.example")]
            serials = [leaf.certificate.serial_number for leaf in (first, second, first)]
            assert got == serials
            assert stand.stat("sds.server.update_attempt") == 2


async def test_http_is_not_offered_in_a_version_that_is_not_spoken(tmp_path: Path) -> None:
    client = visitor()
    client.set_alpn_protocols(["h2", "http/1.1"])
    tls = BY_SECRET._replace(alpn=("h2", "http/1.1"))
    async with (
        plane(tmp_path) as control,
        serving(control, {"server": pair_of(issued())}, [listener(HttpManager("h"), tls=tls)]) as stand,
    ):
        streams = await stand.connect(tls=client)
        assert streams[1].get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await leave(streams)


# Authorities


async def test_a_client_of_the_new_authority_is_accepted_and_of_the_old_one_refused(tmp_path: Path) -> None:
    theirs = Authority.create("theirs")
    pairs = [written(tmp_path, issued("client", of=each), name) for each, name in ((authority(), "o"), (theirs, "t"))]
    ours, other = (visitor(each) for each in pairs)
    server = written(tmp_path, issued(), "server")
    tls = DownstreamTls((server,), require_client_certificate=True, ca_secret=CLIENT_CA)
    async with (
        plane(tmp_path) as control,
        serving(control, {"ca": trusted(authority())}, [listener(Echo(), tls=tls)]) as stand,
    ):
        kept = await stand.connect(tls=ours)
        assert await talks(kept)
        assert await served(stand, other) is None
        await control.give("2", "ca", trusted(theirs))
        assert await served(stand, ours) is None
        assert await served(stand, other) is not None
        assert await talks(kept)
        await leave(kept)
        assert await control.give("3", "ca", {"validation_context": {"trusted_ca": inline(b"x")}}) == "2"
        assert await control.give("4", "ca", {"validation_context": {}}) == "2", "nothing verifies clients"
        assert await served(stand, other) is not None
        assert stand.stat("sds.ca.update_rejected") == 2


async def test_the_default_counts_where_a_secret_has_no_authority(tmp_path: Path) -> None:
    theirs = Authority.create("theirs")
    ours = visitor(written(tmp_path, issued("client"), "client"))
    server = written(tmp_path, issued(), "server")
    tls = DownstreamTls((server,), written_ca(tmp_path, authority()), require_client_certificate=True)
    async with plane(tmp_path) as control:
        secrets = {"ca": trusted(theirs)}
        async with serving(control, secrets, [listener(Echo(), tls=tls._replace(ca_secret=CLIENT_CA))]) as stand:
            assert await served(stand, ours) is None
            await control.give("2", "ca", {"validation_context": {}})
            assert await served(stand, ours) is not None


# Clusters


async def test_a_cluster_s_certificate_and_authority_are_replaced(tmp_path: Path) -> None:
    old, new = issued("client"), issued("client")
    seen: list[int] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = written(tmp_path, issued("upstream"), "upstream")
    context.load_cert_chain(pair.chain, pair.key)
    context.load_verify_locations(written_ca(tmp_path, authority()))
    context.verify_mode = ssl.CERT_REQUIRED

    async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(serial_of(writer.get_extra_info("ssl_object").getpeercert(binary_form=True)))
        await echo(reader, writer)

    tls = UpstreamTls(certificate_secrets=(secret_of("client"),), ca_secret=CLIENT_CA)
    async with plane(tmp_path) as control, origin(noting, context) as address:
        secrets = {"client": pair_of(old), "ca": trusted(authority())}
        served_by = [listener(TcpProxy("t", "c"))]
        async with serving(control, secrets, served_by, [cluster(address, tls=tls)]) as stand:
            kept = await stand.connect()
            assert await talks(kept)
            await control.give("2", "client", pair_of(new))
            later = await stand.connect()
            assert await talks(later)
            assert await talks(kept)
            await leave(kept)
            await leave(later)
            assert seen == [old.certificate.serial_number, new.certificate.serial_number]
            await control.give("2", "ca", trusted(Authority.create("theirs")))
            refused = await stand.connect()
            assert await end_of(refused[0]) == b""
            await leave(refused)
            assert stand.stat("cluster.c.ssl.fail_verify_error") == 1
            assert stand.stat("cluster.c.client_ssl_socket_factory.ssl_context_update_by_sds") == 3
