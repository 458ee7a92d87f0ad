"""The tables of sweeps: written as runs end, read to go on, and written for a job without its client."""
