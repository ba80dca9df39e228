"""Floor 4: the backends."""
