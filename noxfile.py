"""Run the fast tests on each version of Python that is installed: `nox`, or `nox -s fast-3.13`."""

import nox

nox.options.default_venv_backend = "venv"


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def fast(session: nox.Session) -> None:
    """Install the locked versions and this project, and run the fast tests."""
    session.install("--require-hashes", "-r", "requirements/fast.txt")
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    session.run("pytest", "--fast", "--numprocesses", "auto", *session.posargs)
