"""Judging: from configuration to checks. The pytest plugin and the command line both call it, so they agree."""
