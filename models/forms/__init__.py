"""How models call their projector: one file per form."""

__all__: list[str] = []
