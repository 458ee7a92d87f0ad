"""Programs as calls: a `Command` bound to its parameters and files, its results, and the tables of sweeps."""
