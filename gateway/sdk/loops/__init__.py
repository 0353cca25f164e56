"""The SDK outside its own event loop: synchronous code, threads, other loops.

background  a runtime on an event loop in a thread
bridge      awaits on one loop what belongs to another
sync_calls  twins of the SDK's functions for synchronous code
watchdog    warns when a step blocks the event loop
"""
