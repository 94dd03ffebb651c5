"""These tests need zetascale: `make test-zeta`."""

from helpers import torchvision_operators

torchvision_operators.declare()
