"""The status over HTTP: pages, documents, health, orders."""
