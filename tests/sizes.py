"""How large the tests' models are; benchmarks set larger ones before they import the tests."""

V, D = 16, 24  # the widths of the vision encoder and of the language model
H = 20  # inner widths
SIDE = 8  # of the grids, where a model knows its image's size
