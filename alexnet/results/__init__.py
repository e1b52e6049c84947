"""Section 7: what a trained net is worth, and the pictures of it."""
