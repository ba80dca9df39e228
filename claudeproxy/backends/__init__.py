"""Floor 4, the first that knows Twisted: the backends, and the child process of the embedded model."""
