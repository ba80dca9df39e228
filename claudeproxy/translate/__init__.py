"""Floor 2: values to values: requests, replies, the event machine."""
