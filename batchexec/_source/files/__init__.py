"""The user's files: found, hashed, in sets that travel."""
