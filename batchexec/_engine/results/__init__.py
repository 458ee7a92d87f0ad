"""What comes back: result blobs read and checked, files brought to their places, futures resolved, failures named."""
