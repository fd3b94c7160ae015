"""The subcommands of `layermerge`, one module each."""
