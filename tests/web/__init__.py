"""Floor 5: the public face, over a network in memory."""
