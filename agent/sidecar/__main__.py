"""`python -m agent.sidecar` is the same as `sidecar`."""

from agent.sidecar.program import main

main()
