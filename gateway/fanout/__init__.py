"""From a store's log to many subscribers: tails, cursors, groups.

May import `stores` and the rooms below it.

    cursor         a reader's place on a tail
    frame          a frame that many readers get, encoded once
    group          readers at one tail that receive the same bytes
    hub            how readers share the open streams of a process
    lag            a reader that is behind its stream, as metrics see it
    page_cache     pages for readers that lag, read and encoded once
    record_cursor  a cursor that gives records instead of frames
    tail           the live end of one stream, and its recent records
"""
