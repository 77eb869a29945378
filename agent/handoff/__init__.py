"""Envoy's hot-restart protocol, both sides, with the vault and the gate that stand in the middle of it."""
