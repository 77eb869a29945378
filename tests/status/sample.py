"""A status with one of each thing that it can show."""

from datetime import UTC, datetime, timedelta

from agent.status.model import (
    AttemptView,
    Authorities,
    Blocked,
    CertificateSet,
    Change,
    EpochView,
    Evidence,
    Facts,
    ListenerView,
    Phase,
    ProbeResult,
    RejectedFile,
    Status,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    """Return a time this many seconds before the status."""
    return NOW - timedelta(seconds=seconds)


def facts(serial: str, left: timedelta, name: str = "web.example") -> Facts:
    """Return a leaf of ninety days with this much life left."""
    return Facts(
        subject=f"CN={name}",
        names=(f"DNS:{name}", f"URI:spiffe://example/{name}"),
        spiffe_id=f"spiffe://example/{name}",
        issuer="CN=a test authority",
        serial=serial,
        key_type="ECDSA P-256",
        not_before=NOW + left - timedelta(days=90),
        not_after=NOW + left,
        fingerprint=serial.zfill(64),
    )


def overview(now: datetime = NOW) -> Status:
    """Epoch 7 serves, 6 and 5 drain, 8 is at the gate; one of two sets is refused."""
    why = "cannot use /etc/certs/api/tls.crt: it does not fit /etc/certs/api/tls.key"
    why += "; write both, the last good files stay in use"
    return Status(
        at=now,
        version="0.1.0",
        pid=1,
        started_at=ago(86_400),
        ready=True,
        reason="",
        sentence=f"epoch 7 serves, certificate until 2026-07-03 12:00Z; epoch 6 draining, 3 connections; {why}",
        epoch=7,
        epochs=(
            EpochView(
                5,
                "draining",
                "draining",
                "0d1e2f3a4b5c",
                105,
                ago(7_000),
                ago(300),
                NOW + timedelta(seconds=300),
                0,
                12,
                4 << 20,
            ),
            EpochView(
                6,
                "draining",
                "draining",
                "1d1e2f3a4b5c",
                106,
                ago(3_600),
                ago(60),
                NOW + timedelta(seconds=540),
                3,
                40,
                41 << 20,
            ),
            EpochView(
                7,
                "serving",
                "serving",
                "2d1e2f3a4b5c",
                107,
                ago(61),
                ago(60),
                None,
                None,
                None,
                52 << 20,
                ("1f02", "2a"),
            ),
            EpochView(8, "candidate", "waiting", "3d1e2f3a4b5c", 108, ago(0.2), ago(0.05), NOW + timedelta(seconds=29)),
        ),
        certificates=(
            CertificateSet(
                "web",
                "/etc/certs/web/tls.crt",
                "/etc/certs/web/tls.key",
                facts("1f02", timedelta(days=60)),
                facts("1f02", timedelta(days=60)),
                (Authorities("/etc/certs/web/ca.crt", 2, NOW + timedelta(days=900)),),
            ),
            CertificateSet(
                "api",
                "/etc/certs/api/tls.crt",
                "/etc/certs/api/tls.key",
                facts("2a", timedelta(days=3), "api.example"),
                facts("2b", timedelta(days=90), "api.example"),
                (),
                in_sync=False,
                refused=why,
            ),
        ),
        refused=(RejectedFile("/etc/certs/api/tls.crt", "mismatch", why, "api"),),
        blocked=(Blocked.REFUSED_FILES,),
        listeners=(
            ListenerView("tcp://0.0.0.0:15443", 2, 3),
            ListenerView("unix:///run/app.sock", 1, None),
        ),
        rotations=(
            AttemptView(
                8,
                "certificate",
                "running",
                "",
                ago(0.2),
                "3d1e2f3a4b5c",
                "2d1e2f3a4b5c",
                (Change("web", "1f02", "1f03"),),
                (Phase("start", 0.15),),
            ),
            AttemptView(
                7,
                "certificate",
                "serving",
                "",
                ago(61),
                "2d1e2f3a4b5c",
                "1d1e2f3a4b5c",
                (Change("web", "1f01", "1f02"),),
                (
                    Phase("launch", 0.002),
                    Phase("start", 0.08),
                    Phase("judge", 0.004),
                    Phase("open", 0.006),
                    Phase("handover", 0.003),
                ),
                Evidence(3, 0, 0, (ProbeResult("tcp://0.0.0.0:15443", "1f02", True),), None),
            ),
            AttemptView(
                6,
                "operator",
                "serving",
                "",
                ago(3_600),
                "1d1e2f3a4b5c",
                "0d1e2f3a4b5c",
                (),
                (Phase("start", 0.09), Phase("drain", 12.5)),
                Evidence(0, 0, 0, (), 2),
            ),
            AttemptView(
                4,
                "configuration",
                "refused",
                "cannot use envoy.yaml: envoy says: no such cluster <x>",
                ago(7_300),
                "9d1e2f3a4b5c",
                "0d1e2f3a4b5c",
                (),
                (Phase("launch", 0.3),),
            ),
        ),
        out_of_sync_since=ago(30),
        paused_until=None,
    )
