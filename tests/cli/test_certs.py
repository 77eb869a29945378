import asyncio
import json
import socket
import ssl
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from cryptography import x509

from agent.certificates.x509 import Leaf as Known
from agent.certificates.x509 import leaf_of_chain
from agent.cli.certs import _Days, certs
from agent.cli.certs_compare import compare
from agent.cli.certs_files import Files, Inventory, Level, read_files
from agent.cli.certs_listeners import Answer, Kind, Listener, ask_all
from agent.status.model import Authorities, Blocked, CertificateSet, Facts, ListenerView, Status, to_json
from tests.cli import openssl
from tests.cli.tls_servers import by_name, context, nobody, pair_in, shop, wanting
from tests.cli.told import ask, telling
from tests.pki import Algorithm, Authority, Leaf
from tests.status.sample import overview

ROOT = Authority.create("the root")
BELOW = ROOT.intermediate("the one below")
BELOW_RENEWED = ROOT.intermediate("the one below", BELOW.key)
SPIFFE = "spiffe://example/ns/default/sa/web"
NOW = datetime.now(UTC)
OLD = BELOW.issue(["web.test", SPIFFE], serial=0x1F01)
NEW = BELOW.issue(["web.test", "*.web.test", "192.0.2.7", SPIFFE], serial=0x1F02)
NEW_RENEWED = replace(NEW, chain_pem=NEW.certificate_pem + BELOW_RENEWED.pem)
FOREIGN = ROOT.issue(["elsewhere.test"], serial=0xFE)


def facts(leaf: Leaf) -> Known:
    return leaf_of_chain(tuple(x509.load_pem_x509_certificates(leaf.chain_pem)))


def written(directory: Path, leaf: Leaf, key: Leaf | None = None) -> CertificateSet:
    """A certificate group on disk that the agent reports as served."""
    chain, secret, bundle = (directory / name for name in ("tls.crt", "tls.key", "ca.crt"))
    chain.write_bytes(leaf.chain_pem)
    secret.write_bytes((key or leaf).key_pem)
    bundle.write_bytes(ROOT.pem + BELOW.pem)
    known = Facts.of(facts(leaf))
    return CertificateSet(
        "web", str(chain), str(secret), known, known, (Authorities(str(bundle), 2, None),)
    )  # fmt: skip


def of(*sets: CertificateSet, listeners: tuple[str, ...] = ()) -> Status:
    """The status of a healthy agent with these groups."""
    views = tuple(ListenerView(address, 1, 0) for address in listeners)
    serving = tuple(each for each in overview().epochs if each.state == "serving")
    return Status(NOW, "1", 1, NOW, True, "", "", 7, serving, sets, listeners=views)


# The same facts as openssl's


@pytest.mark.parametrize("key", ["rsa", "ecdsa", "ed25519"])
def test_the_facts_equal_those_of_openssl(key: Algorithm, tmp_path: Path) -> None:
    path = tmp_path / "tls.crt"
    path.write_bytes(BELOW.issue(["a.test", "192.0.2.7", SPIFFE], key).chain_pem)
    file = read_files(CertificateSet("a", str(path), None, None, None)).chain
    assert file is not None
    assert file.leaf is not None
    leaf = file.leaf
    assert openssl.told_of(path) == openssl.expected(leaf)
    assert (file.certificates, file.in_order, leaf.spiffe_id) == (2, True, SPIFFE)
    assert leaf.key_type == {"rsa": "RSA 2048", "ecdsa": "ECDSA P-256", "ed25519": "Ed25519"}[key]


# Files


def test_matching_files_are_reported(tmp_path: Path) -> None:
    files = read_files(written(tmp_path, NEW))
    assert files.chain is not None
    assert files.key is not None
    assert (files.chain.problem, files.key.problem, files.key.fits) == ("", "", True)
    assert [each.subject for each in files.bundles[0].certificates] == ["CN=the root", "CN=the one below"]


def test_a_key_of_another_certificate_does_not_fit(tmp_path: Path) -> None:
    key = read_files(written(tmp_path, NEW, key=FOREIGN)).key
    assert key is not None
    assert (key.fits, key.unusable) == (False, True)
    assert f"cannot use {tmp_path}/tls.key: it does not fit" in key.problem


def test_a_chain_out_of_order_and_invalid_files_are_reported(tmp_path: Path) -> None:
    made = written(tmp_path, NEW)
    (tmp_path / "tls.crt").write_bytes(NEW.certificate_pem + ROOT.pem)
    (tmp_path / "ca.crt").write_bytes(b"garbage")
    files = read_files(made)
    assert files.chain is not None
    assert not files.chain.in_order
    assert "there is no PEM in it" in files.bundles[0].problem
    assert files.bundles[0].unusable


def test_what_we_may_not_read_is_said_and_is_not_the_files_fault(ordinary: Path) -> None:
    made = written(ordinary, NEW)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (ordinary / name).chmod(0)
    files = read_files(made)
    assert files.chain is not None
    assert files.key is not None
    problems = [files.chain.problem, files.key.problem, files.bundles[0].problem]
    assert all("permission denied to uid" in each for each in problems)
    assert all(each.endswith("; run this as root or as the agent's user") for each in problems)
    assert (files.chain.unusable, files.key.unusable, files.bundles[0].unusable) == (False, False, False)
    inventory = compare(of(made), {"web": files}, (), None)
    assert (inventory.level, inventory.sets[0].disk) == (0, made.disk)


def test_a_missing_file_is_the_files_fault(tmp_path: Path) -> None:
    made = written(tmp_path, NEW)
    (tmp_path / "tls.key").unlink()
    key = read_files(made).key
    assert key is not None
    assert key.unusable
    assert f"cannot use {tmp_path}/tls.key: no such file or directory" in key.problem


# Listeners


async def shown(
    *addresses: str, names: tuple[str, ...] = (), key_types: tuple[str, ...] = (), timeout: float = 5
) -> tuple[Listener, ...]:
    return await asyncio.to_thread(ask_all, addresses, names, key_types, timeout)


async def test_of_twins_with_other_kinds_of_key_both_are_shown(tmp_path: Path) -> None:
    """A client that supports both is shown only one of them."""
    twins = [BELOW.issue(["a.test"], key) for key in ("rsa", "ecdsa")]
    how = context(tmp_path, twins[0])
    (tmp_path / "twin").mkdir()
    how.load_cert_chain(*pair_in(tmp_path / "twin", twins[1]))
    types = tuple(facts(each).key_type for each in twins)
    async with shop(how) as address:
        (one,) = await shown(address)
        (both,) = await shown(address, key_types=types)
    assert len(one.answers) == 1
    assert {answer.leaf.serial for answer in both.answers} == {facts(each).serial for each in twins}


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=lambda each: each.name)
@pytest.mark.parametrize("key", ["rsa", "ecdsa", "ed25519"])
async def test_a_listener_shows_its_certificate(key: Algorithm, newest: ssl.TLSVersion, tmp_path: Path) -> None:
    leaf = BELOW.issue(["a.test"], key)
    async with shop(context(tmp_path, leaf, newest=newest)) as address:
        assert await shown(address) == (Listener(address, Kind.TLS, (Answer("", facts(leaf)),)),)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=lambda each: each.name)
async def test_a_listener_that_wants_our_certificate_still_shows_its_own(
    newest: ssl.TLSVersion, tmp_path: Path
) -> None:
    async with shop(wanting(context(tmp_path, NEW, newest=newest), ROOT)) as address:
        (listener,) = await shown(address)
    assert listener.answers == (Answer("", facts(NEW)),)


async def test_a_listener_is_asked_for_every_name(tmp_path: Path) -> None:
    how = by_name(
        context(tmp_path, FOREIGN), {"web.test": context(tmp_path, NEW), "any.web.test": context(tmp_path, OLD)}
    )
    names = ("web.test", "web.test", "*.web.test", "no name", "x" * 70, "no*.test", "")
    async with shop(how) as address:
        (listener,) = await shown(address, names=names)
    assert [(each.name, each.leaf.serial) for each in listener.answers] == [
        ("", 0xFE), ("web.test", 0x1F02), ("any.web.test", 0x1F01),
    ]  # fmt: skip


async def test_a_listener_on_a_unix_socket_is_asked_too(tmp_path: Path) -> None:
    async with shop(context(tmp_path, NEW), tmp_path / "s") as address:
        (listener,) = await shown(address)
    assert listener.answers == (Answer("", facts(NEW)),)


async def test_a_listener_without_tls_is_reported_as_such(tmp_path: Path) -> None:
    bound, free = nobody()
    with bound:
        async with shop(b"HTTP/1.1 400 Bad Request\r\n\r\n") as plain, shop(None) as rude:
            listeners = await shown(plain, rude, free, "udp://127.0.0.1:1", f"unix://{tmp_path}/none", "nonsense")
    assert [each.kind for each in listeners] == [
        Kind.PLAINTEXT, Kind.SILENT, Kind.UNREACHABLE, Kind.NOT_ASKED, Kind.UNREACHABLE, Kind.UNREACHABLE,
    ]  # fmt: skip
    assert all(each.why for each in listeners)
    assert listeners[2].why == "cannot connect: connection refused"


async def test_a_listener_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        (listener,) = await shown(f"tcp://127.0.0.1:{mute.getsockname()[1]}", names=("a.test", "b.test"), timeout=0.05)
        mute.setblocking(False)
        mute.accept()[0].close()
        with pytest.raises(BlockingIOError):
            mute.accept()
    assert (listener.kind, listener.why) == (Kind.SILENT, "no answer in time")


# What to think of it

WEB = "tcp://192.0.2.1:443"


def judged(
    told: Status, *answers: tuple[str, Leaf], least: timedelta | None = None, kind: Kind = Kind.TLS
) -> Inventory:
    """Return an inventory whose files are those of the status."""
    listener = Listener(WEB, kind, tuple(Answer(name, facts(leaf)) for name, leaf in answers), "no answer in time")
    files = {each.name: Files(None, None, ()) for each in told.certificates}
    return compare(told, files, (listener,), least)


def a_set(serves: Leaf, disk: Leaf, **more: object) -> CertificateSet:
    known = CertificateSet("web", "/c/tls.crt", "/c/tls.key", Facts.of(facts(serves)), Facts.of(facts(disk)))
    return replace(known, in_sync=serves is disk, **more)  # type: ignore[arg-type]


def test_what_serves_as_it_lies_on_the_disk_is_fine() -> None:
    inventory = judged(of(a_set(NEW, NEW)), ("", NEW), ("web.test", NEW))
    assert (inventory.level, inventory.findings) == (Level.OK, ())
    assert [(each.name, each.serial, each.matches) for each in inventory.sets[0].shown] == [
        ("", "1f02", True), ("web.test", "1f02", True),
    ]  # fmt: skip


def refused() -> Status:
    return of(a_set(OLD, NEW, refused="cannot use /c/tls.key: it does not fit; write the other one"))


def waiting() -> Status:
    return replace(of(a_set(OLD, NEW)), blocked=(Blocked.JITTER,))


def coming() -> Status:
    return replace(of(a_set(OLD, NEW)), epochs=overview().epochs)


@pytest.mark.parametrize(
    ("told", "shows", "level", "message"),
    [
        (refused(), OLD, Level.WARNING, "cannot use /c/tls.key: it does not fit; write the other one"),
        (waiting(), OLD, Level.WARNING, "the files on disk are not served yet: jitter"),
        (coming(), OLD, Level.WARNING, "the files on disk are not served yet: a new epoch is starting"),
        (of(a_set(OLD, NEW)), OLD, Level.CRITICAL, f"{WEB} shows serial 1f01, which is not on disk; reason unknown"),
        (of(a_set(NEW, NEW)), OLD, Level.CRITICAL, f"{WEB} shows serial 1f01, the agent reports that serial 1f02"),
        (
            refused(),
            BELOW.issue(["web.test"], serial=0x77),
            Level.CRITICAL,
            "shows serial 77, the agent reports that seria",
        ),
        (
            of(a_set(NEW, NEW)),
            NEW_RENEWED,
            Level.CRITICAL,
            f"{WEB} shows serial 1f02 with other issuers, the agent reports that serial 1f02 serves",
        ),
        (
            of(a_set(NEW, NEW_RENEWED)),
            NEW,
            Level.CRITICAL,
            f"{WEB} shows serial 1f02 with other issuers, which is not on disk; reason unknown",
        ),
    ],
    ids=[
        "refused",
        "waiting",
        "coming",
        "no reason",
        "the agent is wrong",
        "neither of the two",
        "other issuers than the agent says",
        "other issuers than on the disk",
    ],
)
def test_another_certificate_than_the_disk_s_needs_a_reason(
    told: Status, shows: Leaf, level: Level, message: str
) -> None:
    inventory = judged(told, ("", shows))
    assert inventory.level == level
    assert message in inventory.findings[0].message
    assert inventory.findings[0].about == "web"


def test_a_leaf_belongs_to_the_set_it_is_from_though_another_has_the_same_names() -> None:
    other = replace(a_set(OLD, OLD), name="other")
    inventory = judged(of(other, a_set(NEW, NEW)), ("", NEW), ("web.test", OLD))
    assert inventory.level == Level.OK
    assert [[each.serial for each in item.shown] for item in inventory.sets] == [["1f01"], ["1f02"]]


def test_additional_issuers_of_a_server_are_no_finding() -> None:
    alone = replace(NEW, chain_pem=NEW.certificate_pem)
    assert judged(of(a_set(alone, alone)), ("", NEW)).level == Level.OK


def test_a_leaf_of_no_set_that_has_ended_is_critical() -> None:
    ended = ROOT.issue(["elsewhere.test"], serial=0xFD, not_after=NOW - timedelta(days=1))
    inventory = judged(of(a_set(NEW, NEW)), ("", ended), ("web.test", NEW))
    assert [each.message.partition(" 20")[0] for each in inventory.findings] == ["shows serial fd, which ended"]
    assert inventory.level == Level.CRITICAL


def test_what_serves_before_its_time_is_critical() -> None:
    early = ROOT.issue(["web.test"], not_before=NOW + timedelta(hours=1))
    assert judged(of(a_set(early, early)), ("", early)).level == Level.CRITICAL


def test_a_leaf_of_no_group_is_shown_and_is_no_finding() -> None:
    inventory = judged(of(a_set(NEW, NEW)), ("", FOREIGN), ("web.test", NEW))
    assert inventory.level == Level.OK
    assert [(each.address, each.leaf.serial) for each in inventory.strangers] == [(WEB, "fe")]


@pytest.mark.parametrize(
    ("life", "left", "least", "level"),
    [
        (timedelta(days=90), timedelta(days=10), None, Level.OK),
        (timedelta(days=90), timedelta(days=8), None, Level.WARNING),
        (timedelta(hours=24), timedelta(hours=3), None, Level.OK),
        (timedelta(hours=24), timedelta(hours=2), None, Level.WARNING),
        (timedelta(days=90), timedelta(days=10), timedelta(days=14), Level.WARNING),
        (timedelta(days=90), timedelta(days=1), timedelta(hours=12), Level.OK),
        (timedelta(days=90), -timedelta(seconds=2), timedelta(0), Level.CRITICAL),
    ],
    ids=str,
)
def test_remaining_life_is_a_finding(life: timedelta, left: timedelta, least: timedelta | None, level: Level) -> None:
    leaf = ROOT.issue(["web.test"], not_before=NOW + left - life, not_after=NOW + left)
    assert judged(of(a_set(leaf, leaf)), ("", leaf), least=least).level == level


def test_what_serves_counts_and_not_what_lies_on_the_disk() -> None:
    expired = ROOT.issue(["web.test"], not_after=NOW - timedelta(days=1))
    told = of(a_set(NEW, expired, refused="cannot use /c/tls.crt: it expired"))
    assert judged(told, ("", NEW)).level == Level.WARNING
    assert judged(of(a_set(expired, NEW, refused="no")), ("", expired)).level == Level.CRITICAL


@pytest.mark.parametrize(
    ("kind", "hung", "level"),
    [
        (Kind.UNREACHABLE, False, Level.CRITICAL),
        (Kind.SILENT, True, Level.CRITICAL),
        (Kind.SILENT, False, Level.OK),
        (Kind.PLAINTEXT, False, Level.OK),
    ],
)
def test_a_listener_without_a_certificate_is_a_finding_by_its_kind(kind: Kind, hung: bool, level: Level) -> None:
    inventory = judged(replace(of(), hung=hung), kind=kind)
    assert inventory.level == level
    assert [(each.address, each.kind) for each in inventory.listeners] == [(WEB, kind)]


# The command


async def test_the_command_compares_the_disk_with_what_is_shown(tmp_path: Path) -> None:
    made = written(tmp_path, NEW)
    async with (
        shop(context(tmp_path, NEW)) as tls,
        shop(b"HTTP/1.1 400\r\n\r\n") as plain,
        telling(tmp_path, of(made, listeners=(tls, plain))),
    ):
        ran = await ask(certs, place=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    said = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert said[:3] == ["ok: 1 set; the files on disk are served", "", "web"]
    for line in (
        "subject CN=web.test",
        "names DNS:web.test, DNS:*.web.test, IP:192.0.2.7",
        f"spiffe id {SPIFFE}",
        "issuer CN=the one below",
        "serial 1F02",
        "key type ECDSA P-256",
        f"shown by {tls}: the one on disk",
        f"{plain} plaintext: it answers a TLS hello in plaintext",
    ):
        assert line in said
    whole = " ".join(ran.out.split())  # a long path is wrapped
    assert "2 certificates" in whole
    assert "2 authorities" in whole


async def test_where_no_listener_shows_anything_that_is_not_hidden(tmp_path: Path) -> None:
    made = written(tmp_path, NEW)
    async with shop(b"HTTP/1.1 400\r\n\r\n") as plain, telling(tmp_path, of(made, listeners=(plain,))):
        ran = await ask(certs, place=tmp_path)
    said = " ".join(ran.out.split())
    assert "the agent reports that the files on disk are served, but no listener has shown a certificate" in said


async def test_json_has_all_of_it(tmp_path: Path) -> None:
    made = written(tmp_path, NEW)
    async with shop(context(tmp_path, NEW)) as tls, telling(tmp_path, of(made, listeners=(tls,))):
        ran = await ask(certs, "--json", place=tmp_path)
    told = json.loads(ran.out)
    assert (ran.code, told["level"], told["findings"]) == (0, 0, [])
    assert told["sets"][0]["disk"] == to_json(made.disk)
    files = {role: told["sets"][0][role]["path"] for role in ("chain", "key")}
    assert files == {"chain": made.chain, "key": made.key}
    assert {"address": tls, "name": "web.test"}.items() <= told["sets"][0]["shown"][1].items()
    assert told["listeners"] == [{"address": tls, "kind": "tls", "why": ""}]


async def test_a_warning_is_1_and_an_unused_disk_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["agent.cli.certs"], "_SECOND_LOOK", 0.0)
    made = written(tmp_path, NEW)
    shows = context(tmp_path, NEW)
    async with shop(shows) as tls, telling(tmp_path, of(made, listeners=(tls,))) as agent:
        ran = await ask(certs, "--min-days", 36_500, place=tmp_path)
        assert (ran.code, ran.out.split(":")[0]) == (1, "warning")
        assert agent.asked == ["GET /status"]
        written(tmp_path, OLD)
        ran = await ask(certs, place=tmp_path)
    assert (ran.code, ran.out.split(":")[0]) == (2, "critical")
    assert "shows serial 1f02, which is not on disk; reason unknown" in " ".join(ran.out.split())
    assert len(agent.asked) == 3, "what is critical is looked at twice"


async def test_without_an_agent_nothing_is_known(tmp_path: Path) -> None:
    ran = await ask(certs, place=tmp_path / "none")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith(f"agent: cannot reach an agent at {tmp_path}/none")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("7", timedelta(days=7)), ("0.5", timedelta(hours=12)), ("12h", timedelta(hours=12)), ("0", timedelta(0))],
)
def test_days_may_be_a_number_or_a_span(text: str, wanted: timedelta) -> None:
    assert _Days().convert(text, None, None) == wanted


@pytest.mark.parametrize("text", ["", "-1", "soon", "nan", "inf", "1e400", "9" * 30, "1.2.3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="neither a number of days nor a span"):
        _Days().convert(text, None, None)
