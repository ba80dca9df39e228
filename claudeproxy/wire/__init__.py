"""Floor 1: bytes to values and back, fed piece by piece."""
