"""One file per format that weights are stored in: safetensors, its index, torch's pickles."""

__all__: list[str] = []
