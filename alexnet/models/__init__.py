"""The nets of section 4, as ordinary torch modules."""
