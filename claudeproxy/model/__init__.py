"""Floor 0: values. Frozen, without behaviour beyond their own invariants."""
