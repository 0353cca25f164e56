"""Notices that a SQLite file was put back from a backup, so that no offset ever means two records.

A file that was put back has lost its newest records, and what is appended next would get the
offsets of those that were lost: a client who had read them would go on in silence with others in
their place. So a random name is kept twice: in the database, and in a small file beside it that no
backup holds. It changes whenever the store is opened, and every minute while there are appends. If
the two differ when the store is opened, the database is not the one that was last closed here, and
every stream gets a new epoch: whoever holds a position is told `reset`.

`realtime backup` gives its copy a name that never matches, so a copy is always noticed, also on
another machine. Copies made by other means are noticed unless they are younger than a minute, or
the file beside is put back together with the database: then delete that one.

The database is written first. It keeps the name that lies beside it as well, so that a crash in
between is no difference.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

MARK_OF_BACKUP = "backup"


class Incarnation:
    """The name of a database file, and its twin beside it.

    Args:
        path: The database file. The twin lies beside the file that symbolic links lead to; that of
            an older release lies beside the link.
    """

    def __init__(self, path: Path) -> None:
        files = dict.fromkeys((path.resolve(), path.absolute()))
        self._paths = [file.with_name(f"{file.name}.incarnation") for file in files]
        self._path = self._paths[0]
        self._beside = ""
        self._next = ""

    def adopt(self, db: sqlite3.Connection, now_ms: int) -> bool:
        """Compare the two, give every stream a new epoch if they differ, and change the name.

        Returns:
            Whether the file was put back from a backup.

        Raises:
            sqlite3.Error: the database cannot be written.
            OSError: the file beside it cannot be read or written.
        """
        was_restored = not self.is_of(db)
        db.execute("BEGIN IMMEDIATE")
        try:
            if was_restored:
                give_new_epochs(db, now_ms)
            self.write(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        self.follow()
        return was_restored

    def is_of(self, db: sqlite3.Connection) -> bool:
        """Whether the database is the one that was last closed here, or is new."""
        row = db.execute("SELECT current, beside FROM incarnation").fetchone()
        names = [path.read_text().strip() for path in self._paths if path.exists()]
        names.sort(key=lambda name: name not in (row or ()))
        self._beside = names[0] if names else ""
        is_new = row is None and not self._beside  # or of a release that kept no name
        return is_new or (bool(self._beside) and self._beside in (row or ()))

    def write(self, db: sqlite3.Connection) -> None:
        """Write a new name into the database, in the transaction that is open."""
        self._next = secrets.token_hex(16)
        db.execute("DELETE FROM incarnation")
        db.execute(
            "INSERT INTO incarnation (current, beside) VALUES (?,?)", (self._next, self._beside)
        )

    def follow(self) -> None:
        """Write the name beside it, once the transaction is durable."""
        part = self._path.with_name(f"{self._path.name}.part")
        with part.open("w") as file:
            file.write(f"{self._next}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        self._beside = self._next


def mark_as_backup(db: sqlite3.Connection) -> None:
    """Give a copy a name that nothing beside it will match."""
    db.execute("DELETE FROM incarnation")
    db.execute("INSERT INTO incarnation (current, beside) VALUES (?1,?1)", (MARK_OF_BACKUP,))


def give_new_epochs(db: sqlite3.Connection, now_ms: int) -> None:
    """Make every position in the file void; in the form of `gateway.stores.base.new_epoch`."""
    db.execute(
        "UPDATE streams SET epoch = printf('%011x%05x', ?, abs(random()) % 1048576)", (now_ms,)
    )
