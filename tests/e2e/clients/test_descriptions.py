"""The served OpenAPI and AsyncAPI documents, checked by validators of these formats."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate

from gateway import protocol
from gateway.server.api import asyncapi
from tests.support.clients.npm import install, tool
from tests.support.gateways import serving
from tests.support.protocol_cases import CASES

HERE = Path(__file__).parent


async def served(path: str) -> dict:
    async with (
        serving() as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http,
    ):
        return (await http.get(path)).raise_for_status().json()


def faults(document: dict, folder: Path) -> str:
    install(HERE)
    (folder / "asyncapi.json").write_text(json.dumps(document))
    done = subprocess.run(
        [tool("node"), HERE / "validate_asyncapi.mjs", folder / "asyncapi.json"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 or done.stdout, done.stderr
    return done.stdout


async def test_openapi_document_is_valid():
    document = await served("/v1/openapi.json")
    validate(document)
    names = [each["operationId"] for item in document["paths"].values() for each in item.values()]
    assert len(set(names)) == len(names)


async def test_asyncapi_document_is_valid(tmp_path):
    document = await served("/v1/asyncapi.json")
    assert faults(document, tmp_path) == ""
    del document["channels"]["connection"]["messages"]["hello"]
    assert "hello" in faults(document, tmp_path)  # proves that the validator reads the document


def test_asyncapi_names_every_frame_of_both_sides():
    document = asyncapi.document("1")
    of = {
        name: {each["$ref"].rsplit("/", 1)[1] for each in operation["messages"]}
        for name, operation in document["operations"].items()
    }
    assert of["fromClient"] == {f.__struct_config__.tag for f in protocol.ClientFrame.__args__}
    assert of["fromGateway"] == {f.__struct_config__.tag for f in protocol.ReceivedFrame.__args__}


def frames() -> list[dict]:
    steps = [step for exchange in CASES["exchanges"] for step in exchange["steps"]]
    return [frame for step in steps for side in ("client", "server") if (frame := step.get(side))]


def test_asyncapi_matches_frames_of_protocol_cases():
    document = asyncapi.document("1")
    checked = set()
    for frame in frames():
        if (
            not isinstance(frame, dict)
            or frame.get("type") not in document["components"]["messages"]
        ):
            continue  # the cases include invalid frames
        payload = document["components"]["messages"][frame["type"]]["payload"]
        schema = {**payload, "components": document["components"]}
        exact = {name: value for name, value in frame.items() if value != "*"}
        holes = set(frame) - set(exact)
        try:
            jsonschema.validate(exact, schema)
        except jsonschema.ValidationError as error:
            is_hole = error.validator == "required" and any(
                f"'{h}'" in error.message for h in holes
            )
            if not is_hole and "*" not in json.dumps(exact):
                pytest.fail(f"{frame}: {error.message}")
        checked.add(frame["type"])
    assert {"hello", "welcome", "subscribe", "subscribed", "records", "end", "error"} <= checked
