"""`sqlite:PATH`: one file, one owning process, one writer thread with group commit.

backup         a copy of a file in use, and its restore
blocks         how records are packed into rows
errors         SQLite's errors as messages that name the remedy
file_lock      one owner of a file
incarnation    notices that a file was restored from a backup
migration      the store as source and destination of a copy
queries        what one read does
reader_pool    threads that read, each with its own connection
retention      finds and removes what may be deleted
schema         tables, and upgrades from older versions
store          the store
transactions   what one write does
writer_thread  the thread that writes: group commit
"""
