"""The identity of a revision; its bytes stay in the revision store."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Revision:
    """The identity of all inputs of an epoch.

    `digest` covers all bytes: configuration, arguments, certificates, keys and binary. `config_digest` covers the same
    without certificates and keys: revisions that share it differ only in certificates, so a configuration that the
    proxy accepted need not be validated again. `push_base` covers everything that only a new epoch can take: revisions
    that share it differ only in files that can be pushed into a running epoch. It is empty if nothing can be pushed.
    """

    digest: str
    config_digest: str
    push_base: str = field(default="", compare=False)

    def can_be_pushed_over(self, other: "Revision") -> bool:
        """Whether an epoch that runs `other` could take this revision without a restart."""
        return bool(self.push_base) and self.push_base == other.push_base

    @property
    def name(self) -> str:
        """The digest's first twelve digits, for display."""
        return self.digest[:12]
