"""``qguard tune``: the search for the fastest or the smallest artifact that holds the gates."""
