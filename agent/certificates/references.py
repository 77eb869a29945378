"""The files that a configuration references, and the role of each."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The role of a referenced file in the configuration."""

    CHAIN = "certificate chain"
    KEY = "private key"
    BUNDLE = "certificate authorities"
    OTHER = "file"


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference to a file.

    `group` names the certificate group, whose files must change together: a chain and its key, and a bundle if the
    configuration uses it with that pair. The name is the chain's path, or the bundle's, and is shown to operators.
    """

    path: str
    role: Role
    group: str
