"""Runs `agent` as `python -m agent`."""

from agent.entry import main

main()
