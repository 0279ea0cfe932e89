"""Robustness: an encoder on generated text, beside fp32 of the same runtime; docs/robustness.md has the properties.

``probe`` encodes a batch in the ways that must agree, ``search`` lets Hypothesis look for the batch on which they do so
least, ``metrics`` turns what was tried into values, ``kept`` remembers the worst texts. Only ``search`` imports Hypothesis.
"""
