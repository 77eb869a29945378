"""Agent: a supervisor that restarts a network proxy without dropping a connection."""

__version__ = "0.1.0"
