"""Imports every module once for each optional package, as if that package were not installed.

Prints one JSON object: by package, by module, the class and the message of the error it raised.
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

OURS = ("gateway", "ui", "demo_app")


def modules():
    """Return the source text of each module by its name."""
    found = {}
    for folder, inside in (("gateway", ""), ("ui", "gateway.")):
        for path in sorted(Path(folder).rglob("*.py")):
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            if not name.endswith("__main__"):
                found[inside + name] = path.read_text()
    found["ui"] = found["gateway.ui"]
    for name in ("tasks", "cluster.tasks"):
        path = Path("demo_app", *name.split(".")).with_suffix(".py")
        found[f"demo_app.{name}"] = path.read_text()
    return found


def failures(names):
    found = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            found[name] = (type(error).__name__, str(error), isinstance(error, ImportError))
    return found


def forget(package, ours):
    for name in list(sys.modules):
        if name in ours or name.partition(".")[0] == package:
            del sys.modules[name]
    sys.modules[package] = None


def in_a_fork(work):
    reading, writing = os.pipe()
    if os.fork() == 0:
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as output:
            json.dump(work(), output)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as input:
        answer = input.read()
    os.wait()
    return json.loads(answer)


def without(package, names, ours):
    """Import modules in a new child process in which a package is missing."""

    def work():
        forget(package, ours)
        return failures(names)

    return in_a_fork(work)


def main(extras):
    """Import all modules without the first package of each extra.

    For the other packages, import only modules that failed without the first, or that name them.
    """
    sources = modules()
    names = list(sources)
    answers = {"": failures(names)}
    ours = [name for name in sys.modules if name.partition(".")[0] in OURS]
    for packages in extras:
        first, *others = packages.split(",")
        answers[first] = without(first, names, ours)
        missed = list(answers[first])
        for package in others:
            using = [name for name in names if package in sources[name] or name in missed]
            answers[package] = without(package, using, using)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
