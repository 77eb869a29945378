"""The units for systemd: which program they start, their text, and their installation into a directory."""
