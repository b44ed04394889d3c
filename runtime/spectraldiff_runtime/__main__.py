"""``python -m spectraldiff_runtime`` is ``sdiff``, and what the installed program starts with."""

import os
import signal
from types import FrameType
from typing import NoReturn


def sdiff() -> NoReturn:
    """Run ``sdiff``; Ctrl-C ends it in one line from the first import on.

    Threads of PyTorch that wait for others do not spin meanwhile, unless OMP_WAIT_POLICY is set: spinning takes the
    cores from the other programs of a busy machine (docs/performance.md, "A busy machine").
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # is read once, when the library is loaded
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
