"""The packages that callables need: found, pinned, built into wheels."""
