"""The table of errors in PROTOCOL.md, made from `gateway.errors`.

`python tests/errors_table.py` writes it there; `test_errors.py` asserts that it is what it says.
"""

from pathlib import Path

from gateway import errors
from gateway.errors import on_the_wire

PROTOCOL = Path(errors.__file__).with_name("PROTOCOL.md")
BEGIN, END = "<!-- errors:begin -->\n", "<!-- errors:end -->"


def table() -> str:
    lines = ["| code | HTTP | close code | retryable | meaning |", "|---|---|---|---|---|"]
    for error in on_the_wire():
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        close = error.close_code or ""
        retryable = "yes" if error.retryable else "no"
        lines.append(
            f"| `{error.code}` | {error.http_status} | {close} | {retryable} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def written() -> str:
    text = PROTOCOL.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def write() -> None:
    PROTOCOL.write_text(
        PROTOCOL.read_text().replace(BEGIN + written() + END, BEGIN + table() + END)
    )


if __name__ == "__main__":
    write()
