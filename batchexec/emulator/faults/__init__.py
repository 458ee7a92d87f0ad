"""What goes wrong when asked for, and how long things take."""
