"""Detect that a SQLite file was restored from a backup, so that no offset names two records.

A restored file lacks its newest records. The next appends would reuse the offsets of the lost
records, and a client that had read those would continue without noticing the loss.

So the store writes a random name to two places: the database, and a small file next to it that no
backup contains, the name file. The name changes whenever the store is opened, and every minute
while there are appends. If the two names differ on opening, the database is not the one that was
last closed here. Then every stream gets a new epoch, and clients with a position receive `reset`.

`realtime backup` gives its copy a name that never matches, so its restore is always detected, on
another machine too. Restores from other copies are detected with two exceptions: the copy is
younger than a minute, or the name file was restored with the database. In these cases, delete the
name file.

The database is written first. It also stores the name that the name file has at that time
(`beside`), so a crash between the two writes is not taken for a restore.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

MARK_OF_BACKUP = "backup"


class Incarnation:
    """The name of a database file, in the database and in the name file.

    Args:
        path: The database file. The name file is next to the file that symbolic links resolve to.
            Older releases wrote it next to the link.
    """

    def __init__(self, path: Path) -> None:
        files = dict.fromkeys((path.resolve(), path.absolute()))
        self._paths = [file.with_name(f"{file.name}.incarnation") for file in files]
        self._path = self._paths[0]
        self._beside = ""
        self._next = ""

    def adopt(self, db: sqlite3.Connection, now_ms: int) -> bool:
        """Compare the two names, change epochs if they differ, and write a new name.

        Returns:
            Whether the file was restored from a backup.

        Raises:
            sqlite3.Error: the database cannot be written.
            OSError: the name file cannot be read or written.
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
        """Whether the database is new, or is the one that was last closed here."""
        row = db.execute("SELECT current, beside FROM incarnation").fetchone()
        names = [path.read_text().strip() for path in self._paths if path.exists()]
        names.sort(key=lambda name: name not in (row or ()))
        self._beside = names[0] if names else ""
        is_new = row is None and not self._beside  # or from a release without names
        return is_new or (bool(self._beside) and self._beside in (row or ()))

    def write(self, db: sqlite3.Connection) -> None:
        """Write a new name to the database, in the open transaction."""
        self._next = secrets.token_hex(16)
        db.execute("DELETE FROM incarnation")
        db.execute(
            "INSERT INTO incarnation (current, beside) VALUES (?,?)", (self._next, self._beside)
        )

    def follow(self) -> None:
        """Write the new name to the name file. Call it after the commit is durable."""
        part = self._path.with_name(f"{self._path.name}.part")
        with part.open("w") as file:
            file.write(f"{self._next}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        self._beside = self._next


def mark_as_backup(db: sqlite3.Connection) -> None:
    """Give a copy a name that no name file matches."""
    db.execute("DELETE FROM incarnation")
    db.execute("INSERT INTO incarnation (current, beside) VALUES (?1,?1)", (MARK_OF_BACKUP,))


def give_new_epochs(db: sqlite3.Connection, now_ms: int) -> None:
    """Invalidate all positions: new epochs in the form of `gateway.stores.base.new_epoch`."""
    db.execute(
        "UPDATE streams SET epoch = printf('%011x%05x', ?, abs(random()) % 1048576)", (now_ms,)
    )
