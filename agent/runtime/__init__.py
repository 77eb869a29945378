"""The loop that waits, lets the core decide, has the host act, and records: notes are carried here and nothing else."""
