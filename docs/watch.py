"""Print a stream's records, and resume after a restart of the gateway or of this program.

Arguments: RUN TOKEN [STREAM [URL]]. Needs `websockets`. The program stores its position in a file
after it has printed the records before that position. If it is killed in between, it prints some
records again, but never skips one.
"""

import asyncio
import json
import os
import pathlib
import sys

import websockets


async def watch(run: str, token: str, stream: str, url: str) -> None:
    file = pathlib.Path(f".{run}.{stream}.position")
    async for socket in websockets.connect(url, max_size=None):  # reconnects with backoff
        try:
            ping_s = 25.0  # until `welcome` states the interval
            await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": token}))
            start = {"position": file.read_text()} if file.exists() else "beginning"
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
                    part = file.with_suffix(".part")
                    part.write_text(position)
                    os.replace(part, file)  # atomic: the file is never half-written
                if frame["type"] not in ("records", "welcome", "subscribed", "pong"):
                    print(frame, file=sys.stderr, flush=True)
                if frame["type"] == "end":
                    return
                if frame["type"] == "error":
                    if not frame["retryable"]:
                        raise SystemExit(1)
                    await asyncio.sleep(frame.get("retry_after_ms", 1000) / 1000)
                    break  # reconnect
        except websockets.ConnectionClosed:
            continue


default = ["", "", "progress", "ws://localhost:8000/v1/ws"]
asyncio.run(watch(*(sys.argv[1:] + default[len(sys.argv) - 1 :])))
