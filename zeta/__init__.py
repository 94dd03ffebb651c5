"""Zeta's modules as blocks, ``{"type": "zeta-..."}``; zetascale is imported when one is built.

`table.json` says what each module takes and gives and which arguments it has, so documents are
read, checked and planned without zetascale. `tools/zeta_probe.py` makes it by running the modules.
"""

__all__: list[str] = []
