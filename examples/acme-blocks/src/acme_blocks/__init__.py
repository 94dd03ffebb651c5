"""A block and a projector for mobilevlm."""
