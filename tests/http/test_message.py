import pytest

from agent.http.message import Peer, Request, Response


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/status", "/status"),
        ("/status?format=json", "/status"),
        ("/status?", "/status"),
        ("/a?b?c", "/a"),
        ("?", ""),
        ("", ""),
        ("*", "*"),
        ("/a%3Fb?c", "/a%3Fb"),
    ],
)
def test_the_path_is_the_target_up_to_its_query(target: str, path: str) -> None:
    assert Request("GET", target).path == path


def test_a_request_brings_nothing_that_it_was_not_given() -> None:
    request = Request("GET", "/")
    assert (request.headers, request.body, request.peer, request.address, request.local) == ((), b"", None, None, None)


def test_an_answer_is_plain_text_unless_it_says_otherwise() -> None:
    assert Response(200).headers == (("content-type", "text/plain; charset=utf-8"),)
    assert Response(200).body == b""
    assert Response(200, headers=()).headers == ()


def test_messages_are_values() -> None:
    assert Request("GET", "/", peer=Peer(1, 2, 3)) == Request("GET", "/", peer=Peer(1, 2, 3))
    assert Response(200) != Response(404)
    assert len({Peer(1, 0, 0), Peer(1, 0, 0), Peer(2, 0, 0)}) == 2
