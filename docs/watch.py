"""Print a stream's records, over losses of the gateway and of this process. Needs `websockets`.

RUN TOKEN [STREAM [URL]]. The position lies in a file, written after the records before it were
printed: a record may be printed twice if the process is killed in between, and none is left out.
"""

import asyncio
import json
import os
import pathlib
import sys

import websockets


async def watch(run: str, token: str, stream: str, url: str) -> None:
    kept = pathlib.Path(f".{run}.{stream}.position")
    async for socket in websockets.connect(url, max_size=None):  # again when lost, with backoff
        try:
            ping_s = 25.0  # `welcome` says how often
            await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": token}))
            start = {"position": kept.read_text()} if kept.exists() else "beginning"
            frame = {"type": "subscribe", "id": 1, "run": run, "stream": stream, "start": start}
            await socket.send(json.dumps(frame))
            while True:
                try:
                    frame = json.loads(await asyncio.wait_for(socket.recv(), ping_s))
                except TimeoutError:
                    await socket.send(json.dumps({"type": "ping"}))
                    continue
                ping_s = frame.get("ping_ms", ping_s * 1000) / 1000
                for record in frame.get("records", []):
                    print(record["offset"], json.dumps(record["data"]), flush=True)
                if position := frame.get("position", frame.get("to")):
                    part = kept.with_suffix(".part")
                    part.write_text(position)
                    os.replace(part, kept)  # whole, or as it was
                if frame["type"] not in ("records", "welcome", "subscribed", "pong"):
                    print(frame, file=sys.stderr, flush=True)
                if frame["type"] == "end":
                    return
                if frame["type"] == "error":
                    if not frame["retryable"]:
                        raise SystemExit(1)
                    await asyncio.sleep(frame.get("retry_after_ms", 1000) / 1000)
                    break  # connect anew
        except websockets.ConnectionClosed:
            continue


default = ["", "", "progress", "ws://localhost:8000/v1/ws"]
asyncio.run(watch(*(sys.argv[1:] + default[len(sys.argv) - 1 :])))
