"""Artifacts: the files that get deployed, and what their layers hold."""
