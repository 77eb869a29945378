"""Private keys with typical damage, and whether a text reveals a part of one."""

import re
from functools import cache

from hypothesis import strategies as st

from tests.pki import Algorithm, Authority

RUN = 8  # a run of this many base64 characters of a key is a leak
_FLAT = (b"", b" ", b"\\n", b"\\r\\n", b"\t", b"\r", b"\0", b"\r\n", b"\n\n", b"\n ")
_NOISE = (b"-----", b"\n", b"*", b"&", b"'", b'"', b": ", b"!", b"{", b"\xff", b"-----BEGIN ", b"-----END ", b"%", b"=")


@cache
def key_pem(algorithm: Algorithm, *, traditional: bool = False) -> bytes:
    """Return a key, the same one on each call."""
    leaf = Authority.create("ca").issue(["a.test"], algorithm)
    return leaf.traditional_key_pem() if traditional else leaf.key_pem


def flattened(key: bytes, separator: bytes) -> bytes:
    """Return a key with replaced line breaks."""
    return key.strip().replace(b"\n", separator)


def leaks(key: bytes, text: str) -> list[str]:
    """Return every run of characters of the key's body that occurs in `text`."""
    body = "".join(re.sub(r"-----[^-]*-----", "", key.decode("ascii")).split())
    return [body[at : at + RUN] for at in range(len(body) - RUN + 1) if body[at : at + RUN] in text]


@st.composite
def damaged_keys(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a key and its damaged form: other line ends, pieces lost, moved, doubled or inserted, another label."""
    algorithm: Algorithm = draw(st.sampled_from(("ecdsa", "rsa", "ed25519")))
    key = key_pem(algorithm, traditional=algorithm != "ed25519" and draw(st.booleans()))
    text = key if draw(st.booleans()) else flattened(key, draw(st.sampled_from(_FLAT)))
    for _ in range(draw(st.integers(0, 3))):
        at, to = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        noise = draw(st.sampled_from(_NOISE))
        text = draw(
            st.sampled_from(
                (
                    text[:at] + text[to:],
                    text[:to] + text[at:],
                    text[at:to] + text[:at] + text[to:],
                    text[:at] + noise + text[at:],
                    text[:at] + noise + text[to:],
                    text.replace(b"PRIVATE KEY", text[at:to].strip() or b"KEY", 1),
                    text.replace(b"PRIVATE KEY", b"CERTIFICATE"),
                    text.swapcase(),
                )
            )
        )
    return key, text
