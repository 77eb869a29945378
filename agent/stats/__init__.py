"""Counters and gauges in a file that outlives the proxy that writes it; the agent reads it."""
