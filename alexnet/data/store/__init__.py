"""A store: the prepared pictures, on a disk or in an object store, and the statistics of the training pictures."""
