"""Create the folder of a SQLite file and its secret key."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import ConfigurationError

OWN_FOLDER = ".realtime"  # the folder of the default store; git ignores it


def make_folder(file: Path) -> None:
    """Create the folder of a file if it is missing, but never a folder directly below the root.

    `sqlite:///typo/x.db` is an absolute path. When the folder below the root is missing, a volume
    is not mounted, or the path was meant to be relative.

    Raises:
        ConfigurationError: a folder directly below the root is missing.
        OSError: the folder cannot be created.
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
            pass  # the folder is read-only
