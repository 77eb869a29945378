"""The machine, one kernel matter a file. Nothing here decides."""
