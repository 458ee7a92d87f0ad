"""The Blob service: containers, blobs, signatures."""
