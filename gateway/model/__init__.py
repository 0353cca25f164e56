"""Values: records, positions, runs, patches, limits. No I/O, no asyncio.

May import `errors` and `_internal`.

    limits          limits of sizes and counts for clients
    log             results of stores: appends, pages, heads, states of runs and sets
    network         origins of pages, and addresses behind proxies
    patches         merge patches, and operations on metadata
    records         stream keys, records, positions, writers
    retention       what a store may delete, and how much it deleted
    run_limits      the limits of a run's fields
    runs            runs, their statuses and the table of transitions
    store_urls      the parts of a store's URL
    untrusted_json  the rules for JSON from outside
"""
