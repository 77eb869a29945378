"""The `/metrics` endpoint: metrics of the agent, of every epoch and of the application."""
