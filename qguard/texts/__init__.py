"""Texts that are made up: generated ones, and mutations of real ones."""
