"""Counters and gauges in a file that outlives their writer: a proxy writes, the agent reads while it does."""
