"""Common code of the tests of adapters."""

from gateway.sdk.assembler import Assembler
from gateway.sdk.parts import Part


def assembled(parts: list[Part]) -> Assembler:
    """Assemble all parts."""
    assembler = Assembler()
    for part in parts:
        assembler.add(part)
    return assembler
