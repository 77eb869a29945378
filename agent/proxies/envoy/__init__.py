"""Envoy, and programs that read its configuration: command line, bootstrap, admin interface."""
