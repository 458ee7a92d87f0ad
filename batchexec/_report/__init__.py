"""What the user sees while work is under way."""
