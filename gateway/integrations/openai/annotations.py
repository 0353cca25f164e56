"""Annotations of OpenAI's texts as source parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.integrations._model_streams import (
    get,
    text_of,
)
from gateway.sdk.parts import Part, Source


def source_part(annotation: Any) -> Iterator[Part]:
    """Yield the source that an annotation cites, if it has a URL or a file id."""
    url, file_id = text_of(get(annotation, "url")), text_of(get(annotation, "file_id"))
    if url or file_id:
        title = text_of(get(annotation, "title")) or text_of(get(annotation, "filename"))
        yield Source(file_id or None, url or None, title or None)
