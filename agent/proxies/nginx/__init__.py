"""NGINX: sockets are given at the start, two FIFOs are the gate, a server of the agent's tells that it serves."""
