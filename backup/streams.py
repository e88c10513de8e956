"""Our three streams, where whoever started us closed one."""

import os
import sys


def open_closed_streams() -> None:
    """Put the null device where a stream was closed.

    What is opened next would get its number, a connection to the database for one, and every child would write to that.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(descriptor, descriptor == number)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
