"""The folder of a SQLite file and of the secret key beside it."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import ConfigurationError

OWN_FOLDER = ".realtime"  # of the default store: git ignores it


def make_folder(file: Path) -> None:
    """Make the folder of a file unless it is there, but none directly below the root.

    `sqlite:///typo/x.db` is an absolute path. A folder that is missing there is a volume that is
    not mounted, or a path that was meant to be relative.

    Raises:
        ConfigurationError: a folder below the root is missing.
        OSError: the folder cannot be made.
    """
    folder = file.absolute().parent
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    if missing and missing[-1].parent == Path(folder.anchor):
        relative = folder.relative_to(folder.anchor)
        raise ConfigurationError(
            f"a store in {folder} needs the folder {missing[-1]}, which does not exist: make it, "
            f"or mount it. A path without a leading slash (sqlite:{relative}/…) is below "
            f"{Path.cwd()}, where folders are made"
        )
    folder.mkdir(parents=True, exist_ok=True)
    ignored = folder / ".gitignore"
    if folder.name == OWN_FOLDER and not ignored.exists():
        try:
            ignored.write_text("*\n")
        except OSError:
            pass  # a folder that can be read only
