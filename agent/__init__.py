"""The agent: keeps a network proxy running and replaces it without one client noticing."""
