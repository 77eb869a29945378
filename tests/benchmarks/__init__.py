"""Measures, always as a ratio to a bare Envoy in the same run."""
