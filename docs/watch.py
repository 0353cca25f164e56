"""Print a run's records; killed and started again, go on where it was. Needs only `websockets`."""

import asyncio
import json
import pathlib
import sys

import websockets


async def watch(run: str, token: str, stream: str, url: str) -> None:
    kept = pathlib.Path(f".{run}.{stream}.position")
    async for socket in websockets.connect(url):  # comes back by itself, with backoff
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": token}))
        start = {"position": kept.read_text()} if kept.exists() else "beginning"
        frame = {"type": "subscribe", "id": 1, "run": run, "stream": stream, "start": start}
        await socket.send(json.dumps(frame))
        async for text in socket:
            frame = json.loads(text)
            for record in frame.get("records", []):
                print(record["offset"], json.dumps(record["data"]), flush=True)
            if frame["type"] == "records":
                kept.write_text(frame["position"])
            if frame["type"] in ("end", "error"):
                return print(frame, file=sys.stderr)


default = ["", "", "progress", "ws://localhost:8000/v1/ws"]  # RUN TOKEN [STREAM [URL]]
asyncio.run(watch(*(sys.argv[1:] + default[len(sys.argv) - 1 :])))
