import ssl
from pathlib import Path

import pytest
from cryptography import x509

from agent.demo.authority import CHAIN, KEY, NAME, Authority, write_key, write_pair
from agent.demo.captions import short

AUTHORITY = Authority()


def test_a_pair_fits_and_is_trusted_for_its_name(tmp_path: Path) -> None:
    pair = AUTHORITY.issue()
    write_pair(tmp_path, pair)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    server.load_cert_chain(tmp_path / CHAIN, tmp_path / KEY)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=NAME)
    for side in (here, there, here, there):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = x509.load_der_x509_certificate(here.getpeercert(binary_form=True) or b"")
    assert f"{shown.serial_number:x}" == pair.serial


def test_a_foreign_key_does_not_fit(tmp_path: Path) -> None:
    write_pair(tmp_path, AUTHORITY.issue())
    write_key(tmp_path, AUTHORITY.issue())
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / CHAIN, tmp_path / KEY)


def test_no_other_user_can_read_the_key(tmp_path: Path) -> None:
    write_pair(tmp_path, AUTHORITY.issue())
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600


def test_shortened_serials_differ() -> None:
    assert len({short(AUTHORITY.issue().serial) for _ in range(20)}) == 20
