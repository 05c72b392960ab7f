"""Standard streams whose reader may go away, whose disk may be full, or that are not there."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Pipe:
    """A stream that goes on when it cannot be written to: ``msn run | head`` makes all runs and writes every file.

    Letters that a terminal has not, of a student's name perhaps, are written as ``\\xfc``.

    Attributes:
        lost: why something was not written, or nothing; a reader who has gone away does not miss it.
    """

    def __init__(self, stream: Any):
        self.lost = ""
        self._absent = stream is None  # closed before Python started
        self._stream = open(os.devnull, "w") if stream is None else stream
        with suppress(AttributeError):  # a stream in memory
            self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._absent and text:
            self.lost = "it is closed"
        return self._unless_closed(self._stream.write, text) or len(text)

    def flush(self) -> None:
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, function: Callable[..., Any], *arguments: str) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.lost = error.strerror or str(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):  # a stream in memory
                os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None
