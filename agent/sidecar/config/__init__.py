"""Reads a bootstrap into the sidecar's model; rejects each unsupported field with its path."""
