"""`python -m tests.tools.audit`: look what is installed up among known vulnerabilities (pip-audit).

Ends with 1 when there is one. Where no source of advisories can be reached, it says that nothing
was checked, and ends with 0: a build without a network is no vulnerability.
"""

from __future__ import annotations

import json
import subprocess
import sys

SOURCES = ("pypi", "osv")


def audit(source: str) -> list[dict[str, object]] | None:
    """Ask one source; None if it cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--skip-editable"]
    done = subprocess.run(
        [*command, "-f", "json", "-s", source, "--timeout", "10"], capture_output=True, text=True
    )
    try:
        found: list[dict[str, object]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return found if any("vulns" in each for each in found) else None


def main() -> int:
    """Ask the sources in turn."""
    for source in SOURCES:
        found = audit(source)
        if found is None:
            print(f"pip-audit: {source} has no advisories that can be reached from here")
            continue
        bad = [each for each in found if each.get("vulns")]
        looked_at = sum("vulns" in each for each in found)
        print(f"pip-audit: {looked_at} of {len(found)} packages looked up, {len(bad)} vulnerable")
        for each in bad:
            print(f"  {each['name']} {each['version']}: {each['vulns']}")
        return 1 if bad else 0
    print("pip-audit: NOTHING WAS CHECKED")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
