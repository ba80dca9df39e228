"""Floor 6: the daemon, over a network in memory."""
