"""The demonstration: a labelled picture set drawn here, and the main job from pictures to report on it."""

from alexnet.demo.demonstration import demo

__all__ = ["demo"]
