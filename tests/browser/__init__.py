"""Driven in a real browser. A package of its own: its fixtures end with its last test."""
