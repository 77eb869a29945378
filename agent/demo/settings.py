"""What the demonstration is asked for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """`every`: seconds between two rotations; `length`: seconds of load, from the first answer on."""

    proxy: str
    every: float
    length: float
