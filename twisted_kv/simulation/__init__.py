"""A whole cluster in one process, on a simulated clock, network and disk, every choice drawn from one seed."""
