"""``python -m mobilevlm``."""

from .cli import main

main()
