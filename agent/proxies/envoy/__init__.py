"""Envoy, and what reads its configuration: command line, bootstrap, admin interface."""
