"""qguard: an accuracy and latency regression gate for quantized sentence-embedding models."""

__version__ = "0.1.1"

__all__ = ["__version__"]
