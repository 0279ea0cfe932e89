"""Samples of production: a small suite, drawn from many texts, in which every kind of text is represented."""
