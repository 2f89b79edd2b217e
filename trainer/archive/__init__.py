"""The archive: its sink, what keeps it small and clean, and the bootstrap of a model from it."""
