"""Everything of /metrics: the agent's own, those of every epoch, and those of the application."""
