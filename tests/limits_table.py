"""The table of limits in PROTOCOL.md, made from `gateway.limits`.

`python tests/limits_table.py` writes it there; `test_limits.py` asserts that it is what it says.
"""

from pathlib import Path

from gateway import limits

PROTOCOL = Path(limits.__file__).with_name("PROTOCOL.md")
BEGIN, END = "<!-- limits:begin -->\n", "<!-- limits:end -->"


def table() -> str:
    lines = ["| of | at most | more gives |", "|---|---|---|"]
    for limit in limits.VALUE_LIMITS:
        most = f"{limit.most:.0f} {limit.unit}".rstrip()
        error = f"`{limit.error.code}`" if limit.error else "a cut, which the answer says"
        lines.append(f"| {limit.what} | {most} | {error} |")
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
