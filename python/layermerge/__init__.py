"""LayerMerge."""
