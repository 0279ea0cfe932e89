"""Endpoints: servers that keep a model and answer over HTTP, asked for vectors, scores or weights and judged like an artifact."""
