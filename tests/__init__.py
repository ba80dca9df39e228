"""The tests: one folder a floor, with the fakes, strategies and the judge they share."""
