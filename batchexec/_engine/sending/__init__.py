"""What goes to the nodes: calls and chunks as bytes, their files and packages, the worker itself."""
