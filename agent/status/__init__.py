"""The status over HTTP: page, documents, health and control."""
