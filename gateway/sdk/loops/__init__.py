"""The SDK outside its own event loop: synchronous code, threads, other loops.

May import `runtime`, `context` and the rooms below the SDK.

    bridge      runs coroutines of one loop on another
    sync_calls  synchronous twins of the SDK's functions
    watchdog    warns when a step blocks the event loop
"""
