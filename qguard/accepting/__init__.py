"""``qguard accept``: the passing runs of a report, or the gates run now, become what later runs are held to."""
