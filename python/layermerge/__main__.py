"""`python -m layermerge`: the same as the `layermerge` command."""

import sys

from layermerge.cli import main

sys.exit(main())
