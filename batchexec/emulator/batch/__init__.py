"""The REST face of the Batch service: requests, validation, operations, replies."""
