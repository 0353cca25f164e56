"""What the tests of adapters do with parts."""

from gateway.sdk.assembler import Assembler
from gateway.sdk.parts import Part


def assembled(parts: list[Part]) -> Assembler:
    """Put all parts together."""
    assembler = Assembler()
    for part in parts:
        assembler.add(part)
    return assembler
