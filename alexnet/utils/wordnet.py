"""The identifiers of WordNet's synsets, by which ImageNet names its classes."""

import re

WNID = re.compile(r"n\d{8}")  # such as n02123045: a noun
