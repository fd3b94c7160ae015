"""Latency: the protocol, what it measures in PyTorch, and the profile that comes out."""
