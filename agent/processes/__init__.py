"""Epochs as processes: starting, checking, draining, terminating and adopting them."""
