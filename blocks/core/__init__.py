"""What every block is made of."""

__all__: list[str] = []
