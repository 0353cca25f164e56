"""Every guarantee of `docs/guarantees.md` names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guarantees.md").read_text()
ROWS = re.findall(r"^\| (?!.* \| tests \|$).*", TEXT, flags=re.M)
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", TEXT)))


def test_every_guarantee_names_a_test():
    assert len(ROWS) > 30
    assert not [row for row in ROWS if "::" not in row]


@pytest.mark.parametrize("named", NAMED)
def test_named_test_exists(named):
    path, name = named.split("::")
    wanted = rf"^((async )?def {name}\(|{name} = |class {name}\b)"
    assert re.search(wanted, (ROOT / path).read_text(), re.MULTILINE), f"there is no {named}"
