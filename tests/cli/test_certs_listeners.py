import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from agent.certificates.x509 import Leaf as Known
from agent.certificates.x509 import leaf_of_chain
from agent.cli import certs_listeners as module
from agent.cli.certs_listeners import Answer, Kind, Listener, ask_all
from tests.cli.tls_servers import by_name, context, nobody, pair_in, shop, wanting
from tests.pki import Authority, Leaf

ROOT = Authority.create("the root")
A, B = (ROOT.issue(["a.test"], serial=serial) for serial in (0x1A, 0x1B))


def known(leaf: Leaf) -> Known:
    return leaf_of_chain(tuple(x509.load_pem_x509_certificates(leaf.chain_pem)))


async def asked(
    *addresses: str, names: tuple[str, ...] = (), key_types: tuple[str, ...] = (), timeout: float = 5
) -> tuple[Listener, ...]:
    return await asyncio.to_thread(ask_all, addresses, names, key_types, timeout)


def naming(made: ssl.SSLContext, heard: list[str | None]) -> ssl.SSLContext:
    """Remember the server names that clients ask for."""

    def hear(_: ssl.SSLSocket | ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        heard.append(name)

    made.sni_callback = hear
    return made


async def test_without_listeners_there_are_no_answers() -> None:
    assert await asked(names=("a.test",)) == ()


async def test_listeners_are_answered_for_in_their_order(tmp_path: Path) -> None:
    async with shop(context(tmp_path, A)) as tcp, shop(context(tmp_path, B), tmp_path / "s") as unix:
        found = await asked(unix, tcp, unix)
    assert found == (
        Listener(unix, Kind.TLS, (Answer("", known(B)),)),
        Listener(tcp, Kind.TLS, (Answer("", known(A)),)),
        Listener(unix, Kind.TLS, (Answer("", known(B)),)),
    )


async def test_each_server_name_is_asked_for_once_after_none(tmp_path: Path) -> None:
    made = by_name(context(tmp_path, A), {"b.test": context(tmp_path, B)})
    async with shop(made) as address:
        (listener,) = await asked(address, names=("b.test", "a.test", "b.test"))
    assert listener.answers == (Answer("", known(A)), Answer("b.test", known(B)), Answer("a.test", known(A)))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.test", "a.test"),
        ("*.a.test", "any.a.test"),
        ("x" * 63 + ".test", "x" * 63 + ".test"),
        (".".join(["x" * 62] * 4), ".".join(["x" * 62] * 4)),
        ("", None),
        ("*", None),
        ("a*.test", None),
        ("*.*.test", None),
        ("a..test", None),
        (".test", None),
        ("test.", None),
        ("x" * 64 + ".test", None),
        (".".join(["x" * 63] * 4), None),
        ("a b.test", None),
        ("a\tb", None),
        ("\u00e4.test", None),
    ],
)
async def test_only_a_name_that_a_client_can_ask_for_is_asked_for(
    name: str, wanted: str | None, tmp_path: Path
) -> None:
    heard: list[str | None] = []
    async with shop(naming(context(tmp_path, A), heard)) as address:
        (listener,) = await asked(address, names=(name,))
    assert heard == ([None] if wanted is None else [None, wanted])
    assert len(listener.answers) == len(heard)


async def test_a_listener_is_not_asked_for_more_names_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NAMES_LIMIT", 2)
    heard: list[str | None] = []
    async with shop(naming(context(tmp_path, A), heard)) as address:
        await asked(address, names=("no name", "a.test", "a.test", "b.test", "c.test"))
    assert heard == [None, "a.test", "b.test"]


@pytest.mark.parametrize(
    ("key_types", "handshakes", "answers"),
    [
        ((), 1, 1),
        (("RSA 2048",), 1, 1),
        (("RSA 2048", "RSA 4096"), 1, 1),
        (("Ed25519", "RSA 2048"), 1, 1),
        (("RSA 2048", "ECDSA P-256"), 3, 2),
    ],
)
async def test_where_several_kinds_of_key_serve_each_is_asked_for(
    key_types: tuple[str, ...], handshakes: int, answers: int, tmp_path: Path
) -> None:
    rsa, ecdsa = (ROOT.issue(["a.test"], key) for key in ("rsa", "ecdsa"))
    made, heard = context(tmp_path, rsa), list[str | None]()
    (tmp_path / "twin").mkdir()
    made.load_cert_chain(*pair_in(tmp_path / "twin", ecdsa))
    async with shop(naming(made, heard)) as address:
        (listener,) = await asked(address, key_types=key_types)
    assert len(heard) == handshakes
    assert len({answer.leaf.serial for answer in listener.answers}) == answers


async def test_a_server_without_the_kind_of_key_that_is_asked_for_keeps_its_other_answer(tmp_path: Path) -> None:
    async with shop(context(tmp_path, A)) as address:
        (listener,) = await asked(address, key_types=("RSA 2048", "ECDSA P-256"))
    assert listener == Listener(address, Kind.TLS, (Answer("", known(A)),))


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=lambda each: each.name)
async def test_a_listener_that_wants_a_certificate_of_ours_shows_its_own(
    newest: ssl.TLSVersion, tmp_path: Path
) -> None:
    async with shop(wanting(context(tmp_path, A, newest=newest), ROOT)) as address:
        (listener,) = await asked(address)
    assert [(answer.name, answer.leaf.serial) for answer in listener.answers] == [("", 0x1A)]


async def test_an_old_server_with_a_weak_cipher_is_shown_too(tmp_path: Path) -> None:
    made = context(tmp_path, ROOT.issue(["a.test"], "rsa"), newest=ssl.TLSVersion.TLSv1_2)
    made.set_ciphers("AES128-SHA:@SECLEVEL=0")
    async with shop(made) as address:
        (listener,) = await asked(address)
    assert listener.kind is Kind.TLS


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Kind.PLAINTEXT),
        (b"\x17\x03\x03\x00\x01x", Kind.PLAINTEXT),
        (b"\x15\x03\x03\x00\x02\x02\x28", Kind.SILENT),
        (b"\x16\x03\x03\x00\x04\x00\x00\x00\x00", Kind.SILENT),
        (b"", Kind.SILENT),
        (None, Kind.SILENT),
    ],
    ids=["http", "application data", "alert", "a strange handshake", "nothing", "hangs up"],
)
async def test_a_listener_without_a_certificate_is_described(answer: bytes | None, kind: Kind) -> None:
    async with shop(answer) as address:
        (listener,) = await asked(address, names=("a.test",))
    assert (listener.address, listener.kind, listener.answers) == (address, kind, ())
    assert listener.why


async def test_one_name_without_a_certificate_does_not_hide_the_others(tmp_path: Path) -> None:
    refusing = context(tmp_path, A)

    def choose(_: object, name: str | None, __: object) -> int | None:
        return None if name == "a.test" else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    refusing.sni_callback = choose
    async with shop(refusing) as address:
        (listener,) = await asked(address, names=("b.test", "a.test"))
    assert listener == Listener(address, Kind.TLS, (Answer("a.test", known(A)),))


async def test_addresses_that_cannot_be_asked_are_described(tmp_path: Path) -> None:
    bound, free = nobody()
    with bound:
        found = await asked(free, "udp://127.0.0.1:1", f"unix://{tmp_path}/none", "nonsense")
    assert [each.kind for each in found] == [Kind.UNREACHABLE, Kind.NOT_ASKED, Kind.UNREACHABLE, Kind.UNREACHABLE]
    assert "connection refused" in found[0].why
    assert "no such file" in found[2].why
    assert "nonsense" in found[3].why


async def test_a_listener_that_sends_nothing_is_asked_once_and_not_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        (listener,) = await asked(address, names=("a.test", "b.test"), key_types=("RSA 1", "ECDSA 1"), timeout=0.2)
        mute.setblocking(False)
        mute.accept()[0].close()
        with pytest.raises(BlockingIOError):
            mute.accept()
    assert (listener.kind, "time" in listener.why) == (Kind.SILENT, True)


async def test_a_certificate_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(data: bytes) -> x509.Certificate:
        certificate = x509.load_der_x509_certificate(data)
        if certificate.serial_number == 0x1A:
            raise ValueError("extra data")
        return certificate

    monkeypatch.setattr(module, "load_der_x509_certificate", read)
    made = by_name(context(tmp_path, A), {"b.test": context(tmp_path, B)})
    async with shop(made) as address, shop(context(tmp_path, A)) as alone:
        both, none = await asked(address, alone, names=("b.test",))
    assert both.answers == (Answer("b.test", known(B)),)
    assert (none.kind, "extra data" in none.why) == (Kind.SILENT, True)
