"""What the tests of pages read in them."""

import re

__all__ = ["FENCE"]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block of code: its language and its lines."""
