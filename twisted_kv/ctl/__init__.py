"""``kvctl``: the operator's command line."""
