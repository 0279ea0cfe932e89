"""The machine that computes: its CPU, its host, and libraries that talk too much."""
