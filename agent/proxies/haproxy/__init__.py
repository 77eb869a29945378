"""HAProxy: the agent plays the old process at `-x`, and takes its sockets back at its console."""
