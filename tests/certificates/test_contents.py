import pytest

from agent.certificates.contents import Contents, Unreadable, require
from agent.certificates.findings import Fault, Unusable


def refusal(found: Unreadable) -> Unusable:
    with pytest.raises(Unusable) as caught:
        require({"/c/tls.key": found}, "/c/tls.key")
    return caught.value


@pytest.mark.parametrize("content", [b"", b"\0", b"-----BEGIN", b"x" * 1_000_000])
def test_whatever_bytes_there_are_are_given_as_they_are(content: bytes) -> None:
    contents: Contents = {"/c/other": Unreadable("gone"), "/c/tls.key": content}
    assert require(contents, "/c/tls.key") is content


def test_a_file_that_is_not_there_is_to_be_written_or_another_named() -> None:
    unusable = refusal(Unreadable("no such file or directory"))
    assert (unusable.path, unusable.fault, unusable.why) == ("/c/tls.key", Fault.MISSING, "no such file or directory")
    assert "write it" in unusable.remedy
    assert "name another file" in unusable.remedy


def test_a_file_without_permission_is_to_be_made_readable() -> None:
    unusable = refusal(Unreadable("permission denied", Fault.UNREADABLE))
    assert unusable.fault is Fault.UNREADABLE
    assert "let the agent read it" in unusable.remedy
    assert "write" not in unusable.remedy


@pytest.mark.parametrize("fault", [Fault.MISSING, Fault.UNREADABLE])
def test_an_error_that_passes_asks_nothing_of_the_operator(fault: Fault) -> None:
    unusable = refusal(Unreadable("too many open files", fault, passes=True))
    assert (unusable.fault, unusable.remedy) == (fault, "the agent tries again")


def test_the_message_has_the_path_the_reason_and_the_next_step() -> None:
    message = str(refusal(Unreadable("is a directory")))
    assert message.startswith("cannot use /c/tls.key: is a directory; ")


def test_a_path_that_was_not_read_is_a_bug_and_not_a_missing_file() -> None:
    with pytest.raises(KeyError):
        require({}, "/c/tls.key")
