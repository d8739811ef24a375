"""The way to the other daemons: the contract, the queues that coalesce, and HTTP underneath."""
