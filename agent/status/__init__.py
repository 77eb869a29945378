"""What others may ask the agent over HTTP: its health."""
