"""Runs the `sidecar` command as `python -m agent.sidecar`."""

from agent.sidecar.program import main

main()
