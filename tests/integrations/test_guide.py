"""Executes every block of docs/guide.md, in order, in one program."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"

EPILOGUE = """
import asyncio

import gateway
from gateway import runs

for page in (progress_line, result_line, progress_chart, task_progress, calm, answer):
    assert "realtime_" in str(page().render()), page


async def main() -> None:
    async with gateway.connect(store="memory:"):
        items = [Item("a"), Item("b"), Item("c")]
        run = await process_items.trigger(items)
        seen = await updates(run.id)
        assert [(one.current, one.status) for one in seen][-1] == (3, "Processing c"), seen
        assert (await run.wait()).output == {"processed": 3}

        parent = await orchestrator.trigger(items)
        names = [one.item async for one in done.read(parent.id, timeout_s=10)]
        assert sorted(names) == ["a", "b", "c"]
        assert (await parent.wait()).output == ["A", "B", "C"]
        sources = {one.source async for one in done.read_records(parent.id)}
        assert sources == {child.id for child in await runs.list(parent_id=parent.id)}

        text = await generate_text.trigger("say it")
        assert await consume_stream(text.id) == "Hello, world"
        assert (await text.wait()).output == "Hello, world"


asyncio.run(main())
print("all of it")
"""


def chunk(**delta: str) -> dict[str, Any]:
    finish = None if delta else "stop"
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    kind = "chat.completion.chunk"
    return {"id": "c1", "object": kind, "created": 1, "model": "gpt-4o", "choices": [choice]}


async def test_guide_blocks_run_in_order(provider, tmp_path):
    provider.will_send(chunk(content="Hello"), chunk(content=", world"), chunk(), done=True)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    assert len(blocks) == 13
    script = tmp_path / "guide.py"
    script.write_text("\n".join([*blocks, EPILOGUE]))
    env = {**os.environ, "OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "not a real one"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert out.decode().splitlines()[-1] == "all of it"
    assert provider.requests[0]["messages"][0]["content"] == "say it"
