import pytest

from agent.certificates.references import Reference, Role


@pytest.mark.parametrize(
    ("role", "shown"),
    [
        (Role.CHAIN, "certificate chain"),
        (Role.KEY, "private key"),
        (Role.BUNDLE, "certificate authorities"),
        (Role.OTHER, "file"),
    ],
)
def test_a_role_is_shown_in_words(role: Role, shown: str) -> None:
    assert f"{role}" == shown


def test_one_file_in_two_roles_or_two_groups_is_two_references() -> None:
    one = Reference("/c/all.pem", Role.CHAIN, "web")
    others = {one, Reference("/c/all.pem", Role.KEY, "web"), Reference("/c/all.pem", Role.CHAIN, "api")}
    assert len(others) == 3
    assert Reference("/c/all.pem", Role.CHAIN, "web") in others
