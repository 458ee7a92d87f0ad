"""A local Azure: the Batch and Blob REST protocols on loopback, each task a real process on this machine."""
