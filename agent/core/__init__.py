"""The reconciler: events in, effects out. Pure: no system calls, no clock."""
