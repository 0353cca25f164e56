"""Helpers of the contract tests of stores."""

import asyncio

from tests.support.gateways import DEADLINE_S

NOWHERE = "run_nowhere"


async def take(pages, count):
    """Take pages until so many records have come."""
    records = []
    async with asyncio.timeout(DEADLINE_S):
        while len(records) < count:
            records += (await anext(pages)).records
    return records


async def follow_whole(store, key, after=None):
    records, end = [], None
    async for page in store.follow(key, after):
        records += page.records
        end = page.end
    return records, end
