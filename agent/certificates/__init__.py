"""Parses, checks and selects certificate files. Pure: no system calls, no clock."""
