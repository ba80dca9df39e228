"""Floor 6: the daemon: options, service tree, reload, drain."""
