"""Reads a DiscoveryResponse with one secret, whose TLS messages are those of the bootstrap."""

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.errors import BadInput
from agent.sidecar.config import document
from agent.sidecar.config.addresses import loaded
from agent.sidecar.config.fields import NOT_SUPPORTED, Message, Refusals
from agent.sidecar.config.transport_sockets import CERTIFICATE, VALIDATION
from agent.sidecar.model import LoadedCertificate, LoadedPem

TYPE = "envoy.extensions.transport_sockets.tls.v3.Secret"
_KNOWN = frozenset({"tls_certificate", "validation_context", "session_ticket_keys", "generic_secret"})


class SentCertificate(NamedTuple):
    """A certificate, and the version of the response that brought it."""

    version: str
    certificate: LoadedCertificate


class SentAuthority(NamedTuple):
    """Trusted authorities, None without any, and the version of the response that brought them."""

    version: str
    trusted_ca: LoadedPem | None


def read_certificate(body: bytes, name: str) -> SentCertificate:
    """Read the response about the certificate `name`; raise BadInput with the reason, without its content."""
    version, message = _member(body, name, "tls_certificate", CERTIFICATE)
    chain = _pem(message, "certificate_chain", name, required=True)
    key = _pem(message, "private_key", name, required=True)
    message.refusals.check(f"secret {name}")
    assert chain is not None
    assert key is not None
    return SentCertificate(version, LoadedCertificate(chain, key))


def read_authority(body: bytes, name: str) -> SentAuthority:
    """Read the response about the validation context `name`; raise BadInput as `read_certificate` does."""
    version, message = _member(body, name, "validation_context", VALIDATION)
    authority = _pem(message, "trusted_ca", name)
    message.refusals.check(f"secret {name}")
    return SentAuthority(version, authority)


def _pem(message: Message, field: str, name: str, *, required: bool = False) -> LoadedPem | None:
    if not message.has(field):
        if required:
            message.missing(field)
        return None
    path, content = loaded(message, field)
    return LoadedPem(f"sds:{name}/{field}", path, content)


def _member(body: bytes, name: str, member: str, kind: str) -> tuple[str, Message]:
    """Return the version, and the member of the only secret."""
    tree = _tree(body, name)
    version = tree.get("version_info") or ""
    if not isinstance(version, str):
        raise BadInput(f"cannot use the response about secret {name}: its version_info is not a text")
    secret = _secret(tree, name)
    present = sorted(secret.keys() - {"@type", "name"})
    if present != [member]:
        raise BadInput(f"cannot use secret {name}: {_unexpected(present, member)}")
    return version, Message(secret[member], member, kind, Refusals())


def _tree(body: bytes, name: str) -> Mapping[str, object]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read the response about secret {name}: it is not UTF-8") from error
    if not text.lstrip().startswith("{"):
        raise BadInput(f"cannot read the response about secret {name}: it is not a JSON object")
    return document.parse(text, f"{name}.json")


def _secret(tree: Mapping[str, object], name: str) -> Mapping[str, object]:
    listed = tree.get("resources", [])
    if not isinstance(listed, list) or len(listed) != 1:
        count = len(listed) if isinstance(listed, list) else "no"
        raise BadInput(f"cannot use the response about secret {name}: it has {count} resources instead of one")
    secret = listed[0]
    if not isinstance(secret, dict) or str(secret.get("@type", "")).rpartition("/")[2] != TYPE:
        raise BadInput(f"cannot use the response about secret {name}: its resource is no {TYPE}")
    if secret.get("name") != name:
        raise BadInput(f"cannot use the response about secret {name}: it has a secret of another name")
    return secret


def _unexpected(present: list[str], member: str) -> str:
    others = [each for each in present if each != member]
    if not _KNOWN.issuperset(others):
        return f"it has a field that is {NOT_SUPPORTED}"
    return f"it has {' and '.join(others) or 'nothing'} {'beside' if member in present else 'instead of'} {member}"
