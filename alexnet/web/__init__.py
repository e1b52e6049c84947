"""A run as a web page and an HTTP interface (docs/serve.md)."""
