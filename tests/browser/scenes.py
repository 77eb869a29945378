"""The statuses of a scenario: two rotations with their drains, a refused certificate, and failures."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agent.status.model import (
    AttemptView,
    Authorities,
    Blocked,
    CertificateSet,
    Change,
    End,
    EpochView,
    Evidence,
    Facts,
    ListenerView,
    Phase,
    ProbeResult,
    RejectedFile,
    Status,
)

HOSTILE = "<img src=x onerror=alert(1)>"
WHY = "cannot use /etc/certs/api/tls.crt: it does not fit /etc/certs/api/tls.key; write both, the last good stay in use"


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def facts(name: str, serial: str, days: float = 60) -> Facts:
    """A leaf that is valid for ninety days."""
    end = _ago(0) + timedelta(days=days)
    names = (f"DNS:{name}.example", f"URI:spiffe://example/{name}")
    start, print_ = end - timedelta(days=90), serial.rjust(64, "0")
    return Facts(f"CN={name}", names, names[1][4:], "CN=an authority", serial, "ECDSA P-256", start, end, print_)


def certificates(web: str, api: str = "7c41e0d25f0a9b83c6d24e1f") -> tuple[CertificateSet, ...]:
    """Two certificate groups, the first with a bundle."""
    bundle = Authorities("/etc/certs/web/ca.crt", 2, _ago(0) + timedelta(days=900))
    leaf, other = facts("web", web), facts("api", api, 41)
    return (
        CertificateSet("web", "/etc/certs/web/tls.crt", "/etc/certs/web/tls.key", leaf, leaf, (bundle,)),
        CertificateSet("api", "/etc/certs/api/tls.crt", "/etc/certs/api/tls.key", other, other),
    )


def serving(number: int, seconds: float) -> EpochView:
    """A serving epoch, since so many seconds."""
    begun, since = _ago(seconds + 0.1), _ago(seconds)
    return EpochView(number, "serving", "serving", f"{number}d1e2f3a4b5c", 100 + number, begun, since, memory=54 << 20)


def draining(number: int, seconds: float, left: int, first: int) -> EpochView:
    """An epoch that has drained for so many seconds, of ten minutes."""
    old = replace(serving(number, seconds), state="draining", stage="draining", started_at=_ago(seconds + 900))
    return replace(old, deadline=_ago(seconds - 600), connections=left, connections_at_first=first, memory=38 << 20)


def candidate(number: int) -> EpochView:
    """An epoch at the gate."""
    made = replace(serving(number, 0.02), state="candidate", stage="waiting", memory=None)
    return replace(made, deadline=_ago(-29.9))


def attempt(number: int, seconds: float, before: str, after: str, cut: int | None = None) -> AttemptView:
    """A successful attempt, so many seconds ago."""
    spans = {"launch": 0.004, "start": 0.081, "judge": 0.004, "open": 0.006, "handover": 0.003}
    phases = tuple(Phase(*one) for one in spans.items())
    found = Evidence(3, 0, 0, (ProbeResult("tcp://0.0.0.0:15443", after, matches=True),), cut)
    change = (Change("web", before, after),)
    digests = f"{number}d1e2f3a4b5c", f"{number - 1}d1e2f3a4b5c"
    return AttemptView(number, "certificate", "serving", "", _ago(seconds), *digests, change, phases, found)


def calm() -> Status:
    """A healthy agent."""
    first = AttemptView(7, "start", "serving", "", _ago(86_000), "7d1e2f3a4b5c", None, (), (Phase("start", 0.12),))
    return Status(
        at=_ago(0),
        version="0.1.0",
        pid=1,
        started_at=_ago(86_400),
        ready=True,
        reason="",
        sentence="epoch 7 serves",
        epoch=7,
        epochs=(serving(7, 86_000),),
        certificates=certificates("1f01"),
        listeners=(ListenerView("tcp://0.0.0.0:15443", 2, 0), ListenerView("unix:///run/app.sock", 1, None)),
        rotations=(first,),
        host="edge-7",
    )


def tried() -> Status:
    """A new certificate has arrived, and a candidate is at the gate."""
    run = replace(attempt(8, 0.1, "1f01", "1f02"), outcome="running", phases=(Phase("start", 0.081),), evidence=None)
    base = calm()
    return replace(base, epochs=(*base.epochs, candidate(8)), rotations=(run, *base.rotations))


def rotated(seconds: float = 5, left: int = 40) -> Status:
    """The candidate serves, and its predecessor drains."""
    base = calm()
    return replace(
        base,
        epoch=8,
        epochs=(draining(7, seconds, left, 40), serving(8, seconds)),
        certificates=certificates("1f02"),
        rotations=(attempt(8, seconds, "1f01", "1f02"), *base.rotations),
        listeners=(ListenerView("tcp://0.0.0.0:15443", 2, 3), base.listeners[1]),
    )


def rotated_again() -> Status:
    """Another rotation: two epochs drain beside the serving one."""
    base = rotated(125, 12)
    return replace(
        base,
        epoch=9,
        epochs=(base.epochs[0], draining(8, 45, 31, 33), serving(9, 45)),
        certificates=certificates("1f03"),
        rotations=(attempt(9, 45, "1f02", "1f03"), *base.rotations),
    )


def refused(why: str = WHY, path: str = "/etc/certs/api/tls.crt") -> Status:
    """A pair on disk does not match, while two epochs drain."""
    base = rotated_again()
    web, api = base.certificates
    api = replace(api, disk=facts("api", "7c41e0d25f0a9b83c6d24e20", 90), in_sync=False, refused=why)
    return replace(
        base,
        certificates=(web, api),
        refused=(RejectedFile(path, "mismatch", why, "api"),),
        blocked=(Blocked.REFUSED_FILES,),
        out_of_sync_since=_ago(30),
    )


def crashed() -> Status:
    """Two crashes within the hour, and one before; the last epoch serves."""
    base = rotated(125, 12)
    one, end = base.rotations[0], End(_ago(10), "signal", "was killed by SIGSEGV", 12.0, "serving")
    ends = [None, end, replace(end, at=_ago(60), cause="memory"), replace(end, at=_ago(4_000), cause="code")]
    attempts = tuple(replace(one, epoch=8 - n, trigger="crash", changes=(), end=each) for n, each in enumerate(ends))
    return replace(base, epochs=(serving(8, 9),), rotations=attempts)


def hostile() -> Status:
    """File names that contain markup."""
    base = refused(f"cannot use it: {HOSTILE}", f"/etc/{HOSTILE}.crt")
    bad = replace(base.rotations[0], outcome="refused", reason=HOSTILE, trigger=HOSTILE, evidence=None)
    named = replace(base.certificates[0], name=HOSTILE)
    door = ListenerView(f"unix:///{HOSTILE}", 1, 0)
    return replace(
        base, rotations=(bad,), certificates=(named,), listeners=(door,), ready=False, reason=HOSTILE, version=HOSTILE
    )


def many(count: int) -> Status:
    """So many certificates: four need attention, two are refused; a week with rotations, a refusal and a crash."""
    base = calm()
    names = [f"site{number:03}.example" for number in range(count - 6)]
    leaves = [facts(name, f"{number:024x}", 20 + number * 70 / count) for number, name in enumerate(names)]
    sets = [
        CertificateSet(leaf.subject[3:], f"/c/{leaf.serial}.crt", f"/c/{leaf.serial}.key", leaf, leaf)
        for leaf in leaves
    ]
    for name, days in (("ended", -2), ("urgent", 1.2), ("soon-1", 6), ("soon-2", 13)):
        leaf = facts(name, f"{len(sets):024x}", days)
        sets.append(CertificateSet(name, f"/c/{name}.crt", f"/c/{name}.key", leaf, leaf))
    rejected = []
    for name in ("shop", "blog"):
        leaf, new = facts(name, "aa", 40), facts(name, "ab", 90)
        sets.append(CertificateSet(name, f"/c/{name}.crt", f"/c/{name}.key", leaf, new, (), in_sync=False, refused=WHY))
        rejected.append(
            RejectedFile(f"/c/{name}.crt", "mismatch", WHY.replace("/etc/certs/api/tls", f"/c/{name}"), name)
        )
    return replace(
        base,
        certificates=tuple(sets),
        refused=tuple(rejected),
        blocked=(Blocked.REFUSED_FILES,),
        out_of_sync_since=_ago(300),
        rotations=week(),
        epoch=40,
        epochs=(serving(40, 3_000),),
        listeners=tuple(ListenerView(f"tcp://0.0.0.0:{8000 + number}", 2, number % 3) for number in range(30)),
    )


def fifty() -> Status:
    """Fifty certificates."""
    return many(50)


def five_hundred() -> Status:
    """Five hundred certificates."""
    return many(500)


def week() -> tuple[AttemptView, ...]:
    """Forty attempts in seven days, most after a change on disk; the newest changed many certificates."""
    attempts = []
    for number in range(40):
        seconds = 3_000 + number * 14_000
        each = attempt(40 - number, seconds, "1f01", "1f02", cut=0)
        each = replace(each, changed_at=each.began_at - timedelta(seconds=0.1 + number % 7 / 3), end=None)
        attempts.append(each)
    attempts[0] = replace(attempts[0], changes=tuple(Change(f"site{n}", "1f01", "1f02") for n in range(30)))
    attempts[5] = replace(attempts[5], outcome="refused", reason=WHY, evidence=None)
    attempts[9] = replace(attempts[9], outcome="failed", reason="epoch 31 (pid 7) exited with 1", evidence=None)
    attempts[20] = replace(
        attempts[20], end=End(attempts[19].began_at, "signal", "was killed by SIGSEGV", 14_000, "serving")
    )
    return tuple(attempts)


def broken() -> Status:
    """No epoch serves."""
    base = refused()
    return replace(base, ready=False, reason="no epoch serves", epoch=None, epochs=(), blocked=(Blocked.RETRY,))
