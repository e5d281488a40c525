"""xaikit: find out why a PyTorch model decides as it does, and train it to be right for the right reasons."""

__version__ = "0.1.0"
