"""A hostile proxy, or another user of the machine, against an agent that runs as root."""
