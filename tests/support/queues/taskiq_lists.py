"""A Taskiq broker and result backend on Redis lists and keys.

The published package requires a newer Redis client than Reflex allows.
"""

import pickle

from redis.asyncio import Redis
from taskiq import AsyncBroker, AsyncResultBackend


class ListBroker(AsyncBroker):
    """One list: senders push at one end, workers pop at the other."""

    def __init__(self, url, queue="taskiq"):
        super().__init__()
        self.url, self.queue = url, queue

    async def kick(self, message):
        async with Redis.from_url(self.url) as redis:
            await redis.lpush(self.queue, message.message)

    async def listen(self):
        async with Redis.from_url(self.url) as redis:
            while True:
                if taken := await redis.brpop([self.queue], timeout=1):
                    yield taken[1]


class Results(AsyncResultBackend):
    """One key for each result."""

    def __init__(self, url):
        super().__init__()
        self.url = url

    async def set_result(self, task_id, result):
        async with Redis.from_url(self.url) as redis:
            await redis.set(f"result:{task_id}", pickle.dumps(result), ex=60)

    async def is_result_ready(self, task_id):
        async with Redis.from_url(self.url) as redis:
            return bool(await redis.exists(f"result:{task_id}"))

    async def get_result(self, task_id, with_logs=False):
        async with Redis.from_url(self.url) as redis:
            return pickle.loads(await redis.get(f"result:{task_id}"))
