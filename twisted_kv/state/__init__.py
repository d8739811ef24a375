"""Where the cluster's state lives: the contract of a store, and the stores that there are."""
