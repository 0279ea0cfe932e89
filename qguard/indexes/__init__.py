"""Indexes of vector databases: built of a candidate's vectors, proved to be used, and measured where users search."""
