from agent.sidecar.client import Client


def test_a_client_reports_that_it_has_left() -> None:
    left: list[Client] = []
    one, other = Client(left.append), Client(left.append)
    assert one.original is other.original is None
    assert left == []
    other.leave()
    assert left == [other]
    one.leave()
    assert left == [other, one]
