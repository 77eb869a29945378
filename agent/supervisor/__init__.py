"""The event loop: receive an event, decide, execute the effects, record the outcome."""
