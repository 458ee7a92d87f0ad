"""What the Batch service does by itself: tasks, jobs, pools and nodes on their way."""
