from __future__ import annotations

import sys
from pathlib import Path

# The families of random problems and the oracles are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
