"""ClickHouse's errors as this front sees them: a code, its text, and the HTTP status a server would answer with."""

from __future__ import annotations

import re
from typing import Final

CODE: Final = re.compile(r"Code: (\d+)\.")
VERSION: Final = re.compile(r" \(version [^()]*(?:\([^()]*\))?\)\s*$")

UNKNOWN_EXCEPTION: Final = 1002
BAD_ARGUMENTS: Final = 36
SYNTAX_ERROR: Final = 62
UNKNOWN_SETTING: Final = 115
NOT_IMPLEMENTED: Final = 48
REQUIRED_PASSWORD: Final = 194
AUTHENTICATION_FAILED: Final = 516
QUERY_WITH_SAME_ID: Final = 216
CANNOT_DECOMPRESS: Final = 271
UNKNOWN_COMPRESSION: Final = 89

# Server/HTTP/exceptionCodeToHTTPStatus.cpp, by status; every other code is a 500.
_BY_STATUS: Final[dict[int, tuple[int, ...]]] = {
    401: (194,),
    403: (192, 193, 497, 512, 516),
    400: (6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441, 675, 676),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511),
    408: (159,),
    411: (381,),
    413: (229,),
    415: (779,),
    501: (48,),
    503: (76, 209, 439),
}
_STATUS: Final = {code: status for status, codes in _BY_STATUS.items() for code in codes}


class FrontError(Exception):
    """An error on its way to the client: `code` for X-ClickHouse-Exception-Code, `text` for the body."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> int:
        return _STATUS.get(self.code, 500)


def refusal(code: int, name: str, what: str) -> FrontError:
    """An error of the front itself, worded as the server words its own."""
    return FrontError(code, f"Code: {code}. DB::Exception: {what}. ({name})")


def from_engine(text: str) -> FrontError:
    """The engine's exception text, with the code found in it."""
    found = CODE.search(text)
    return FrontError(int(found.group(1)) if found else UNKNOWN_EXCEPTION, VERSION.sub("", text.strip()))
