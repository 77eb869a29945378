"""Injection: the edits that add the agent's sidecar to API objects, and their application."""
