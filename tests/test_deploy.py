"""The examples for deployment are what the programs that read them accept."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import nginx

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


@pytest.mark.skipif(nginx.why_not() is not None, reason=str(nginx.why_not()))
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl for a certificate")
def test_nginx_takes_its_configuration(tmp_path):
    certificate = ["-keyout", "privkey.pem", "-out", "fullchain.pem", "-days", "1"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=x",
            *certificate,
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    text = (DEPLOY / "nginx.conf").read_text()
    assert "/etc/ssl/realtime" in text
    (tmp_path / "site.conf").write_text(text.replace("/etc/ssl/realtime", str(tmp_path)))
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ access_log off; include site.conf; }}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        env=os.environ | {"PATH": nginx.PATH},
        executable=shutil.which("nginx", path=nginx.PATH),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit, tmp_path):
    copy = tmp_path / unit.name
    lines = unit.read_text().splitlines(keepends=True)
    # What it starts is not installed here.
    copy.write_text(
        "".join("ExecStart=/bin/true\n" if "ExecStart=" in line else line for line in lines)
    )
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert unit.name not in done.stderr, done.stderr  # of others of this machine it may complain
