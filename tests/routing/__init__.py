"""Floor 3: settings and routing, all of it in memory."""
