"""``python -m mobilevlm.cli``."""

from . import main

main()
