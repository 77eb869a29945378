"""The demonstration's settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """`every`: seconds between two rotations; `length`: seconds of load after the first answer."""

    proxy: str
    every: float
    length: float
