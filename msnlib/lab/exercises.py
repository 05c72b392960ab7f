"""What test cells of the problem sets need beside ``assert``."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from msnlib.files import PACKAGE

FOLDER = f"{PACKAGE}{os.sep}"


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call comes to.

    Args:
        call: the function.
        arguments: what it is called with.

    Returns:
        The value it returns, or the type of the exception it raises.
    """
    try:
        return call(*arguments)
    except Exception as error:
        return type(error)


@contextmanager
def unaided(*allowed: Callable[..., Any]) -> Iterator[None]:
    """A block in which msnlib's functions may not be called: what an exercise teaches is to be written, not wrapped.

    What the garbage collector runs meanwhile is nobody's call: it ends generators that were left half way before.

    Args:
        allowed: functions, and types, that may be called, and may call any other.

    Raises:
        AssertionError: another one was called; the message names it.
    """
    codes = {(function.__init__ if isinstance(function, type) else function).__code__ for function in allowed}
    called: list[str] = []
    inside: list[FrameType] = []  # the frame of an allowed function that has not returned
    collecting = False

    def collect(phase: str, info: dict[str, int]) -> None:
        nonlocal collecting
        collecting = phase == "start"

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "return" and inside and frame is inside[0]:
            inside.clear()
        elif event == "call" and not inside:
            if code in codes:
                inside.append(frame)
            elif not collecting and code.co_filename.startswith(FOLDER) and code.co_filename != __file__:
                called.append(code.co_qualname)

    before = sys.getprofile()
    gc.callbacks.append(collect)
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
        gc.callbacks.remove(collect)
    assert not called, f"msnlib's {called[0]} was called: the exercise asks you to write it yourself"
