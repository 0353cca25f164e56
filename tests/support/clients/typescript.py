"""The TypeScript compiler."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.clients.npm import install, tool

CLIENTS = Path(__file__).parents[2] / "e2e" / "clients"
OPTIONS = {
    "target": "esnext",
    "module": "esnext",
    "moduleResolution": "bundler",
    "lib": ["esnext", "dom"],
    "types": [],
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noEmit": True,
}


def check(folder: Path, *files: str) -> str:
    """Compile files of a folder. Returns the compiler's errors, or ""."""
    install(CLIENTS)
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": OPTIONS, "files": list(files)})
    )
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(CLIENTS / "node_modules")
    compiler = CLIENTS / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [tool("node"), compiler, "--project", folder],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode == 0) == (not done.stdout.strip()), done.stdout + done.stderr
    return done.stdout
