"""Floor 5: the public face: routes, guard, answers."""
