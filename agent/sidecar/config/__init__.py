"""An operator's bootstrap, read into the sidecar's own model; whatever is not heeded is refused with its path."""
