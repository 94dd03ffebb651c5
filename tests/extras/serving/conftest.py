"""These tests need what `make test-serving` installs.

What those packages say while they are imported is not a test's business.
"""

from mobilevlm.blocks.core.quiet import quiet

with quiet():
    import openai  # noqa: F401
