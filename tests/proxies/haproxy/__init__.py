"""Tests of HAProxy as a kind of proxy; those that run it are skipped where it is not installed."""
