"""What commands share: the bar of a long download or export."""

import pytest

from spectraldiff_runtime.cli.options import progress_bar


def test_a_bar_counts_on_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("files", quiet=False) as report:
        report(2, 3)
    out, err = capsys.readouterr()
    assert (out, "2/3" in err, "files" in err) == ("", True, True)
    with progress_bar("files", quiet=True) as report:
        report(2, 3)
    assert capsys.readouterr().err.strip() == ""
