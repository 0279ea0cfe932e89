"""Vectors: similarity, quantized storage and exact search."""
