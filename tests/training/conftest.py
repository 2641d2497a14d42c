"""The scripts of `training/` import each other as neighbours."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))
