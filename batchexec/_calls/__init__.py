"""What is behind an executor's methods: its state, what it may use at once, and calls made into chunks."""
