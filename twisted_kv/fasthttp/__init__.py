"""HTTP in as few steps as it takes: the servers' lane, the agent of treq, and the link."""
