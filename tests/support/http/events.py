"""Server-sent events, read as the HTML standard has it."""


def events_of(data: bytes) -> list[tuple[str, str]]:
    """Read events as the HTML standard has it."""
    found, name, lines = [], "message", []
    for line in data.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                found.append((name, "\n".join(lines)))
            name, lines = "message", []
        elif field == "event":
            name = value
        elif field == "data":
            lines.append(value)
    return found
