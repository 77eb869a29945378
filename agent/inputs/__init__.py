"""Turns files on disk into revisions: watches, reads, validates them and holds them open."""
