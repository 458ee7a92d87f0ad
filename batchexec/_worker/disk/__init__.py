"""The node's disk: what a job keeps on it is bounded."""
