"""The prepared set on disk or in an object store."""
