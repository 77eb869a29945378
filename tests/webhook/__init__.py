"""Tests of `agent.webhook`."""
