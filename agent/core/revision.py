"""What an epoch runs from, by name: the bytes themselves stay with the host."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Revision:
    """The identity of everything an epoch is made of.

    `digest` names all the bytes: configuration, arguments, certificates, keys and binary. `config_digest` names the
    same without the certificates and keys: two revisions with the same one differ only in certificates, so a proxy that
    accepted the one configuration need not be asked again.
    """

    digest: str
    config_digest: str

    @property
    def name(self) -> str:
        """The digest as people see it: its first twelve digits."""
        return self.digest[:12]
