"""Envoy's hot-restart protocol (both sides), the socket store and the gate."""
