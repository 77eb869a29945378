"""The loop: an event comes in, the reconciler decides, effects are executed, and the outcome is recorded."""
