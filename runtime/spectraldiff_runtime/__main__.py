"""``python -m spectraldiff_runtime`` is ``sdiff``, and what the installed program starts with."""

import os
import signal
from types import FrameType
from typing import NoReturn


def sdiff() -> NoReturn:
    """Run ``sdiff``; Ctrl-C ends it in one line from the first import on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
        signal.signal(signal.SIGINT, _leave)
    from spectraldiff_runtime.cli import main

    main()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: nothing has been begun yet."""
    os.write(2, b"sdiff: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sdiff()
