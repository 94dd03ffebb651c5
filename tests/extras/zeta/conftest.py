"""These tests need zetascale: `make test-zeta`."""

import torchvision_schemas  # noqa: F401
