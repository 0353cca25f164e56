"""`sqlite:PATH`: one file, one owning process, one writer thread with group commit.

backup         backs up a file in use, and restores it
blocks         packs records into rows
errors         converts SQLite's errors to messages that name the remedy
file_lock      makes one process the owner of a file
incarnation    detects that a file was restored from a backup
migration      the store as source and target of a copy
queries        reads, each in one transaction
reader_pool    threads that read, each with its own connection
retention      finds and deletes expired records and runs
schema         tables, and upgrades from older versions
store          the store
transactions   writes, within a group commit
writer_thread  the thread that writes: group commit
"""
