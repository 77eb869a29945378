"""Generates reference.md and the man pages from the code."""
