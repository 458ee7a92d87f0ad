"""The background thread: chunks go in, results come out as resolved futures. User code never runs on its loop.

work -> packer -> submitter -> (Azure) -> watcher -> resolver, one direction; `engine` owns the thread and its end,
`session` the job, its pool and its blobs.
"""
