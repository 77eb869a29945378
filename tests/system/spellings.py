"""PEM files in many spellings, right and wrong."""

import base64
import subprocess
from collections.abc import Iterator

from tests.pki import Authority, Leaf, pem
from tests.system.eventually import PATIENCE

Spelling = tuple[str, bytes]  # a description, and the file

_LINE = 64


def block(label: str, body: bytes, width: int = _LINE) -> bytes:
    """Write base64 as a block."""
    lines = b"\n".join(body[start : start + width] for start in range(0, len(body), width))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label.encode(), lines, label.encode())


def body_of(block: bytes) -> bytes:
    """Return the base64 of a block."""
    return b"".join(block.split(b"-----\n", 1)[1].rsplit(b"\n-----", 1)[0].split())


def openssl(*arguments: str, content: bytes) -> bytes:
    """Let openssl convert a file."""
    return subprocess.run(
        ["openssl", *arguments], input=content, capture_output=True, check=True, timeout=PATIENCE
    ).stdout


def of_block(label: str, whole: bytes) -> Iterator[Spelling]:
    """Return spellings of a file with one block."""
    yield from _line_ends(whole)
    yield from _encodings(whole)
    yield from _headers(whole)
    yield from _bodies(label, body_of(whole), whole)
    yield from _frames(label, whole)
    yield from _neighbours(label, whole)


def _line_ends(whole: bytes) -> Iterator[Spelling]:
    yield "as it should be", whole
    for name, end in [
        ("crlf", b"\r\n"),
        ("cr", b"\r"),
        ("spaces", b"  \n"),
        ("tabs", b"\t\n"),
        ("two breaks", b"\n\n"),
    ]:
        yield f"lines end with {name}", whole.replace(b"\n", end)
    yield "a few lines end with crlf", whole.replace(b"\n", b"\r\n", 3)
    yield "a few lines end with a vertical tab", whole.replace(b"\n", b"\x0b\n", 2)
    yield "no last line end", whole.rstrip(b"\n")
    yield "no line ends", whole.replace(b"\n", b" ")
    yield "line ends written out", whole.replace(b"\n", b"\\n")
    yield "spaces before the first line", b" " + whole
    yield "spaces before every line", b" " + whole.replace(b"\n", b"\n ").rstrip(b" ")
    yield "spaces before some lines", whole.replace(b"\n", b"\n ", 3)
    yield "a form feed before", b"\x0c" + whole
    yield "control-z at the end", whole + b"\x1a"


def _encodings(whole: bytes) -> Iterator[Spelling]:
    mark = b"\xef\xbb\xbf"
    yield "byte order mark", mark + whole
    yield "byte order mark and a line of text", mark + b"text\n" + whole
    for wide in ("utf-16", "utf-16-le", "utf-16-be"):
        yield wide, whole.decode().encode(wide)
    yield "nul at the start", b"\0" + whole
    yield "nul at the end", whole + b"\0"
    yield "nuls at the end", whole + bytes(100)
    yield "nul in the body", whole[:100] + b"\0" + whole[100:]
    yield "nul in text before", b"te\0xt\n" + whole
    yield "nul after the last line", whole.rstrip(b"\n") + b"\0\n"
    yield "DER", base64.b64decode(body_of(whole))


def _headers(whole: bytes) -> Iterator[Spelling]:
    begin = b"-----\n"
    first, second = whole[:150].rsplit(b"\n", 1)
    rest = second + whole[150:]
    yield "an empty line after BEGIN", whole.replace(begin, begin + b"\n", 1)
    yield "an empty line within", first + b"\n\n" + rest
    yield "an empty line before END", whole.replace(b"\n-----END", b"\n\n-----END")
    yield "empty lines after BEGIN and within", first.replace(begin, begin + b"\n", 1) + b"\n\n" + rest
    yield "a line of spaces within", first + b"\n   \n" + rest
    yield "a header", whole.replace(begin, begin + b"X-Header: value\n\n", 1)
    yield "a header without an empty line", whole.replace(begin, begin + b"X-Header: value\n", 1)
    yield "a header that is not about encryption", whole.replace(begin, begin + b"Proc-Type: 4,MIC-CLEAR\n\n", 1)
    yield "a comment within", first + b"\n# comment\n" + rest


def _bodies(label: str, body: bytes, whole: bytes) -> Iterator[Spelling]:
    for width in (1, 4, 63, 76, 252, 253, 254, 300, len(body)):
        yield f"lines of {width}", block(label, body, width)
    for width in (63, 65, len(body)):
        begin = b"-----\n"
        yield f"an empty line, and lines of {width}", block(label, body, width).replace(begin, begin + b"\n", 1)
    yield "a letter that is none of base64", whole[:100] + b"!" + whole[101:]
    yield "a dash within", whole[:100] + b"-" + whole[100:]
    yield "another letter", whole[:200] + (b"B" if whole[200:201] == b"A" else b"A") + whole[201:]
    yield "more padding", block(label, body + b"====")
    yield "no padding", block(label, body.rstrip(b"="))
    yield "base64 for addresses", block(label, body.translate(bytes.maketrans(b"+/", b"-_")))
    yield "a byte more", block(label, base64.b64encode(base64.b64decode(body) + b"\0"))
    yield "nothing in the block", block(label, b"")


def _frames(label: str, whole: bytes) -> Iterator[Spelling]:
    named = label.encode()
    yield "nothing", b""
    yield "blanks", b"\n\n"
    yield "BEGIN alone", b"-----BEGIN %b-----\n" % named
    yield "no END", whole.split(b"-----END")[0]
    yield "END is cut", whole.rstrip(b"\n")[:-3]
    yield "END of something else", whole.replace(b"END " + named, b"END OTHER")
    yield "text behind BEGIN", whole.replace(b"-----\n", b"----- text\n", 1)
    yield "text behind END", whole.rstrip(b"\n") + b" text\n"
    yield "two spaces in BEGIN", whole.replace(b"BEGIN ", b"BEGIN  ")
    yield "a label in small letters", whole.replace(named, named.lower())
    yield "four dashes", whole.replace(b"-----", b"----")
    yield "six dashes", whole.replace(b"-----", b"------")
    yield "BEGIN again within", whole.replace(b"\n", b"\n-----BEGIN %b-----\n" % named, 2)
    yield "a damaged block before", b"-----BEGIN %b----\nAAAA\n-----END %b-----\n" % (named, named) + whole
    yield "a cut block after", whole + b"-----BEGIN CERT"
    yield "END before", b"-----END %b-----\n" % named + whole


def _neighbours(label: str, whole: bytes) -> Iterator[Spelling]:
    yield "attributes before", b"Bag Attributes\n    localKeyID: 01\nsubject=/CN=x\n" + whole
    yield "text after", whole + b"some text\n"
    yield "UTF-8 before", "# für größe\n".encode() + whole
    yield "Latin-1 before", b"# f\xfcr\n" + whole
    yield "a line of dashes before", b"------------\n" + whole
    yield "a long line before", b"x" * 3000 + b"\n" + whole
    yield "BEGIN within a line of text before", b"text -----BEGIN %b-----\n" % label.encode() + whole
    yield "an empty block before", block(label, b"") + whole
    yield "an unknown block before", block("THING", b"AAAA") + whole
    yield "a damaged unknown block before", block("THING", b"A!AA") + whole
    yield "a damaged unknown block after", whole + block("THING", b"A!AA")
    yield "half an unknown block after", whole + b"-----BEGIN THING-----\nAAAA\n"
    yield "half a block after", whole + b"-----BEGIN %b-----\nAAAA\n" % label.encode()
    yield "twice", whole + whole


def of_chains(leaf: Leaf, issuer: Authority, root: Authority) -> Iterator[Spelling]:
    """Return spellings of a chain with its leaf, and with additional blocks."""
    own, middle = leaf.certificate_pem, pem(issuer.certificate)
    trusted = openssl("x509", "-trustout", content=own)
    yield from of_block("CERTIFICATE", own)
    yield "with its issuer", own + middle
    yield "the issuer first", middle + own
    yield "with the root", leaf.chain_pem + root.pem
    yield "trusted", trusted
    yield "trusted, with its issuer", trusted + middle
    yield "an old label", block("X509 CERTIFICATE", body_of(own))
    yield "as openssl prints it", openssl("x509", "-text", content=own)
    yield "the key before", leaf.key_pem + leaf.chain_pem
    yield "the key behind", leaf.chain_pem + leaf.key_pem
    yield "an encrypted key behind", own + leaf.encrypted_key_pem()
    for label in ("CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE"):
        yield f"a second {label} that is none", own + block(label, b"AAAA")
    yield "a second one with damaged base64", own + block("CERTIFICATE", b"AA!A")
    yield "PKCS#7", openssl("crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", content=own)
    yield "parameters before", block("EC PARAMETERS", b"BggqhkjOPQMBBw==") + own
    yield "something by the name of a request before", block("CERTIFICATE REQUEST", body_of(own)) + own


def of_keys(leaf: Leaf, other: Leaf) -> Iterator[Spelling]:
    """Return spellings of the key of an ECDSA leaf, and with additional blocks."""
    key, traditional = leaf.key_pem, leaf.traditional_key_pem()
    parameters, broken = block("EC PARAMETERS", b"BggqhkjOPQMBBw=="), block("CERTIFICATE", b"AAAA")
    yield from of_block("PRIVATE KEY", key)
    yield "its own format", traditional
    yield "parameters before", parameters + traditional
    yield "another one behind", key + other.key_pem
    yield "another one before", other.key_pem + key
    yield "an encrypted one behind", key + leaf.encrypted_key_pem()
    yield "a damaged one behind", key + block("PRIVATE KEY", b"AAAA")
    yield "the certificate before", leaf.certificate_pem + key
    yield "the certificate behind", key + leaf.certificate_pem
    yield "a certificate that is none before", broken + key
    yield "its public half", openssl("pkey", "-pubout", content=key)
    yield "its own format by the other's label", block("PRIVATE KEY", body_of(traditional))
    for label in ("ANY", "THING", "EC", "RSA", "DSA"):
        yield f"PKCS#8 by the label {label}", block(f"{label} PRIVATE KEY", body_of(key))


def of_rsa_keys(leaf: Leaf) -> Iterator[Spelling]:
    """Return spellings of the key of an RSA leaf."""
    key, traditional = leaf.key_pem, leaf.traditional_key_pem()
    yield "RSA", key
    yield "RSA in its own format", traditional
    yield "RSA in PKCS#8 by its own label", block("RSA PRIVATE KEY", body_of(key))
    yield "RSA in its own format by the label of PKCS#8", block("PRIVATE KEY", body_of(traditional))
    yield "RSA by the label of EC", block("EC PRIVATE KEY", body_of(traditional))


def of_bundles(root: Authority, leaf: Leaf, middle: Authority) -> Iterator[Spelling]:
    """Return spellings of a bundle of authorities, and with additional blocks."""
    own = root.pem
    yield from of_block("CERTIFICATE", own)
    yield "trusted", openssl("x509", "-trustout", "-addtrust", "serverAuth", content=own)
    yield "trusted, and not", own + openssl("x509", "-trustout", content=own)
    yield "with a leaf", own + leaf.certificate_pem
    yield "a leaf alone", leaf.certificate_pem
    yield "with a key", own + leaf.key_pem
    yield "with comments", b"# one\n" + own + b"# two\n" + pem(middle.certificate)
    yield "an old label", block("X509 CERTIFICATE", body_of(own))
    yield "a second one that is none", own + block("CERTIFICATE", b"AAAA")
    yield "a second one with damaged base64", own + block("CERTIFICATE", b"A!AA")
    yield "a revocation list that is none", own + block("X509 CRL", b"AAAA")
