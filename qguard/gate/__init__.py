"""The gate itself, as a plain pytest module: ``pytest --pyargs qguard.gate --precision int8``."""
