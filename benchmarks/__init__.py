"""What batchexec costs beside the standard library's executors: `python -m benchmarks`."""
