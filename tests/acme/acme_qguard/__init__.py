"""A company's own parts for qguard: each in one file, registered by the entry points beside this package."""
