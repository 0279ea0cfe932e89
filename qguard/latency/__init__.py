"""Latency: two artifacts timed in pairs, one verdict that neither flakes nor sleeps.

``decision`` holds the statistics (pure), ``trial`` the order of runs, ``arms`` what is timed, ``check`` the gate.
"""
