"""What several tests of stores read."""


async def read_all(store, key):
    """Return all records of a stream."""
    records, after = [], None
    while (page := await store.read(key, after)).records:
        records += page.records
        after = page.position
    return records
