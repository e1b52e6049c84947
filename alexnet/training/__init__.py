"""Sections 5.2 and 6: the update rule, its schedule, the loop and its checkpoints."""
