"""Programs on a node: their processes, their directories, what they leave."""
