"""``python -m spectraldiff_runtime`` is ``sdiff``."""

from .cli import main

if __name__ == "__main__":
    main()
