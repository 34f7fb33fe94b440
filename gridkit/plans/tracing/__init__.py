"""From PyTorch code to a plan's operations."""
