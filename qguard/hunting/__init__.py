"""Hunting: a search, over a corpus and mutations of it, for the texts and pairs that a quantization hurts most."""
