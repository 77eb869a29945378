"""The agent: keeps a network proxy running and replaces it without one client noticing."""

__version__ = "0.1.0"
