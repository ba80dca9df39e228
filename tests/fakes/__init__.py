"""Backends that play what a script says: real resources, runnable, and tested themselves."""
