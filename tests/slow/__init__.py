"""Tests that run for minutes: `pytest -m slow`."""
