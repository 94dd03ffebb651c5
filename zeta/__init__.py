"""Zeta's modules as blocks, ``{"type": "zeta-..."}``; building one imports zetascale, not before.

A fixed table, `table.json`, says what each module takes and gives and which arguments it has, so
that documents are read, checked and walked without zetascale. It is made by running the modules:
`tools/zeta_probe.py`.
"""

__all__: list[str] = []
