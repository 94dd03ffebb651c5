"""What upstream computes, for tests to compare ours with and for benchmarks to time.

Either the real class of transformers, built small, or a published computation in plain torch.
"""
