"""The demonstration: draw labelled pictures, prepare them, train on them, evaluate and report."""
