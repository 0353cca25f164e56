"""What `docs/guarantees.md` promises is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/guarantees.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "held by |" not in line]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", TEXT)))


def test_every_promise_names_a_test():
    assert len(ROWS) > 30
    assert not [row for row in ROWS if "::" not in row]


@pytest.mark.parametrize("named", NAMED)
def test_the_test_that_is_named_is_there(named):
    path, name = named.split("::")
    wanted = rf"^((async )?def {name}\(|{name} = |class {name}\b)"
    assert re.search(wanted, (ROOT / path).read_text(), re.MULTILINE), f"there is no {named}"
