"""The figures that papers publish of projectors, and the same configurations here.

A file for each question holds the rows, `sources` the papers, `terms` what rows are made of.
"""
