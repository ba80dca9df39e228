"""Floor 0: values."""
