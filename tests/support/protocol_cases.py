"""The cases that the gateway and the browser's client both have to pass."""

import json
from pathlib import Path

CASES = json.loads((Path(__file__).parents[1] / "protocol" / "cases.json").read_text())
