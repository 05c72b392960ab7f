"""Standard streams whose reader may go away."""

import os
from collections.abc import Callable
from typing import Any


class Pipe:
    """A stream that goes on without its reader: ``msn run | head`` makes all runs and writes every file."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._unless_closed(self._stream.write, text) or len(text)

    def flush(self) -> None:
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, function: Callable[..., Any], *arguments: str) -> Any:
        try:
            return function(*arguments)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return None
