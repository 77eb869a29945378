"""The units for systemd: which program they start, their text, and their installation into a directory."""

UNITS = ("agent.service", "agent@.service", "agent.socket")
"""The units by name."""
