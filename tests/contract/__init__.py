"""What every backend must do: one set of tests, run against a fake of each kind."""
