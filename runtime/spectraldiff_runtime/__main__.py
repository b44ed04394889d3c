"""``python -m spectraldiff_runtime`` is ``sdiff``."""

from spectraldiff_runtime.cli import main

if __name__ == "__main__":
    main()
