"""What a configuration points at: the files it reads, and what each of them is to it."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a referenced file is to the configuration that names it."""

    CHAIN = "certificate chain"
    KEY = "private key"
    BUNDLE = "certificate authorities"
    OTHER = "file"


@dataclass(frozen=True, slots=True)
class Reference:
    """One mention of a file.

    `unit` groups what must change together: a chain and its key carry the same unit, so does a bundle with the pair
    beside it when the configuration says so. Units are names for people too: the chain's path, or the bundle's.
    """

    path: str
    role: Role
    unit: str
