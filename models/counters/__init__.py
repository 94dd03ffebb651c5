"""How processors count the tokens of an image: one file per way."""

__all__: list[str] = []
