"""Floor 3: what the user settled, and which backend and model a request goes to. Pure."""
