"""Staged files on a node: fetched once, checked, placed into working directories."""
