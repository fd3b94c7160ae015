"""Importance: what replacing each segment does to the score."""
