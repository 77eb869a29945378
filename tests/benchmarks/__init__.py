"""Benchmarks: every figure is a ratio to a bare Envoy in the same run."""
