"""One file per family, with everything about it."""

__all__: list[str] = []
