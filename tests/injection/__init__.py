"""Tests of `agent.injection`."""
