"""The identity of a revision; its bytes stay in the revision store."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Revision:
    """The identity of all inputs of an epoch.

    `digest` covers all bytes: configuration, arguments, certificates, keys and binary. `config_digest` covers the same
    without certificates and keys: revisions that share it differ only in certificates, so a configuration that the
    proxy accepted need not be validated again.
    """

    digest: str
    config_digest: str

    @property
    def name(self) -> str:
        """The digest's first twelve digits, for display."""
        return self.digest[:12]
