"""What `--data-dir` keeps, and how it goes on from there."""
