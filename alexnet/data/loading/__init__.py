"""From a store to batches: crops, reflections, colour shifts, views (section 5.1)."""
