"""The pool: its body, images and start task, its size, and what a task takes of its nodes."""
