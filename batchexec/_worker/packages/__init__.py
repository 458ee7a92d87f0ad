"""Packages on a node: environments, made once and used by all jobs."""
