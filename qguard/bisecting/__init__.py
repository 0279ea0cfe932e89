"""Bisection: which release of a package, commit or pin of a lock file made a metric worse."""
