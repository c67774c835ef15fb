"""Images: the embedded soil micrographs, loaders for what users bring, client splits."""
