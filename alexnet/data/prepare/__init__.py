"""From a source to a store: decode, cut to squares, write (section 3)."""
