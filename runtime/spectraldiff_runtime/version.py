"""The version of the installed package."""


def installed_version() -> str:
    """Look the version up when it is asked for: `importlib.metadata` takes longer to load than Typer."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("spectraldiff")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
