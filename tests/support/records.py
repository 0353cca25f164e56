"""What several tests of stores read."""

import json

from gateway.stores.base import PAGE_BYTES


def data_of(records):
    """Return the values of records."""
    return [json.loads(record.data) for record in records]


async def read_all(store, key, after=None, max_bytes=PAGE_BYTES):
    """Read page by page to the tail; check what every page promises."""
    records = []
    while True:
        page = await store.read(key, after, max_bytes)
        records += page.records
        if page.records and after is not None and not page.gap and not page.reset:
            assert page.records[0].offset == after.offset
        if page.records:
            assert page.position.offset == page.records[-1].offset + 1
        if page.end is not None or not page.records:
            return records, page
        after = page.position


async def records_of(store, key):
    """Return all records of a stream."""
    return (await read_all(store, key))[0]
