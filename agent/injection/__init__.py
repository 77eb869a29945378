"""Injection: which changes of an API object add the agent's sidecar, and how they are written into its text."""
