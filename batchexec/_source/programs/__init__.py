"""Programs and scripts of the user: what can run on a node, and what a script needs beside it."""
