"""The browser's client as one ES module."""

import subprocess
from pathlib import Path

import httpx
import pytest

from gateway.server.api.client_assets import FOLDER, client_module
from gateway.server.api.client_bundle import BundleError, bundle
from tests.support.clients.npm import tool
from tests.support.gateways import serving


def evaluate(module: str, expression: str, folder: Path) -> str:
    """Run a module's export in Node."""
    (folder / "bundle.mjs").write_text(module)
    script = f'import * as it from "./bundle.mjs"; console.log(JSON.stringify({expression}))'
    (folder / "script.mjs").write_text(script)
    done = subprocess.run(
        [tool("node"), "script.mjs"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_private_names_of_modules_stay_their_own(tmp_path):
    files = {
        "a.js": 'import { b } from "./b.js";\nimport { c as other } from "./c.js";\n'
        "const HIDDEN = 1;\nexport const a = () => [HIDDEN, b(), other];\n",
        "b.js": 'import {\n  c,\n} from "./c.js";\nconst HIDDEN = 2;\n'
        "export function b() {\n  return HIDDEN + c;\n}\n",
        "c.js": "const HIDDEN = 3;\nexport const c = HIDDEN;\nexport class D {}\n",
    }
    module = bundle("a.js", files.__getitem__)
    assert evaluate(module, "it.a()", tmp_path) == "[1,5,3]"
    assert evaluate(module, "Object.keys(it)", tmp_path) == '["a"]'
    assert module.count("const HIDDEN = 3") == 1  # a module that two import is there once


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('import React from "react";\n', "import React"),
        ("export default 1;\n", "export default"),
        ("export let x = 1;\n", "export let"),
        ('export * from "./b.js";\n', "export *"),
        ('import { nothing } from "./b.js";\n', "b.js exports no nothing"),
        ('import { x } from "./a.js";\n', "a.js → a.js"),
    ],
)
def test_what_cannot_be_put_together_is_refused(text, words):
    files = {"a.js": text, "b.js": "export const b = 1;\n"}
    with pytest.raises(BundleError, match=words.replace("*", r"\*")):
        bundle("a.js", files.__getitem__)


def test_the_client_is_made_of_the_files_that_reflex_gets(tmp_path):
    module = client_module()
    for name in ("connection.js", "store.js", "subscription.js", "protocol.js"):
        marker = (FOLDER / name).read_text().splitlines()[1]
        assert module.count(marker) == 1, name
    exported = evaluate(module, "Object.keys(it).sort()", tmp_path)
    assert exported == '["RealtimeError","connect","createHooks"]'


async def test_it_is_served_to_pages_of_any_origin_and_kept_by_its_tag():
    async with (
        serving() as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http,
    ):
        answer = await http.get("/v1/client.js", headers={"Origin": "https://any.example"})
        assert answer.text == client_module()
        headers = answer.headers
        assert headers["content-type"] == "text/javascript; charset=utf-8"
        assert headers["access-control-allow-origin"] == "*"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "cross-origin"
        again = await http.get("/v1/client.js", headers={"If-None-Match": headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        types = await http.get("/v1/client.d.ts")
        assert types.text == (FOLDER / "client.d.ts").read_text()
        assert types.headers["etag"] != headers["etag"]
        assert (await http.post("/v1/client.js")).status_code == 405
