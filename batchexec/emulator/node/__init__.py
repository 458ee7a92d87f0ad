"""What happens on a node: directories, downloads, processes, containers, uploads."""
