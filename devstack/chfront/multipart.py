"""multipart/form-data: fields, and the files that become external tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from devstack.chfront.errors import BAD_ARGUMENTS, refusal

_BOUNDARY: Final = re.compile(r"boundary=(?:\"([^\"]+)\"|([^;\s]+))", re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(r"(\w+)=\"((?:[^\"\\]|\\.)*)\"")


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    filename: str | None
    data: memoryview


def is_multipart(content_type: str) -> bool:
    return content_type.lower().startswith("multipart/form-data")


def parts(content_type: str, body: bytes) -> list[Part]:
    """The parts of a whole body. Their data are views into it, not copies."""
    found = _BOUNDARY.search(content_type)
    if not found:
        raise _broken("the Content-Type has no boundary")
    mark = b"--" + (found.group(1) or found.group(2)).encode()
    view, out = memoryview(body), []
    at = body.find(mark)
    while at >= 0 and not body.startswith(b"--", at + len(mark)):
        head = body.find(b"\r\n", at) + 2
        data = body.find(b"\r\n\r\n", head - 2) + 4
        end = body.find(b"\r\n" + mark, data - 2)
        if head < 2 or data < 4 or end < 0:
            raise _broken("a part does not end")
        out.append(_part(body[head : max(head, data - 4)], view[data : max(data, end)]))
        at = end + 2
    if at < 0:
        raise _broken("the closing boundary is missing")
    return out


def _part(head: bytes, data: memoryview) -> Part:
    for line in head.decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            found = {key.lower(): text for key, text in _ATTRIBUTE.findall(value)}
            return Part(found.get("name", ""), found.get("filename"), data)
    raise _broken("a part has no Content-Disposition")


def _broken(what: str) -> Exception:
    return refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"The multipart/form-data body is broken: {what}")
