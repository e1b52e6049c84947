"""From a store to batches: crops, reflections and colour shifts for training, views for testing (section 5.1)."""
