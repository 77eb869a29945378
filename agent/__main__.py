"""`python -m agent` is `agent`."""

from agent.entry import main

main()
