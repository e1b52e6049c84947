"""From what people have on disk to batches: sources, preparation, the store, the loader (sections 3 and 5.1)."""
