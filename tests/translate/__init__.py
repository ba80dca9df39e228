"""Floor 2: values to values."""
