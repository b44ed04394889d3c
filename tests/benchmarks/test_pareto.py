"""The design space's figure: the table that it reads, and the front that it draws."""

from pathlib import Path

import pytest

from benchmarks.pareto import HEADING, Point, draw, front, main, read_points

PAGE = f"""# Performance

{HEADING}

| Classifier | Window | MFLOP | OA | AA |
|---|---|---|---|---|
| large | 9 | 35 | 98.1 | 95.0 |
| **small** | 15 | 0.06 | 98.7 | 97.0 |
| better | 21 | 4.8 | 99.0 | 96.0 |

## Another

| a | b | 1 | 2 | 3 |
"""


def test_rows_of_the_one_table_become_points() -> None:
    assert read_points(PAGE) == [
        Point("large", 35, 98.1, 95, False),
        Point("small", 0.06, 98.7, 97, True),
        Point("better", 4.8, 99, 96, False),
    ]


def test_the_front_has_what_nothing_beats_in_both() -> None:
    assert [p.name for p in front(read_points(PAGE))] == ["small", "better"]


def test_a_page_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no heading"):
        read_points("# Performance")


def test_the_page_of_this_project_can_be_drawn(tmp_path: Path) -> None:
    points = read_points(Path("docs/performance.md").read_text("utf-8"))
    assert sum(p.chosen for p in points) == 1
    draw(points, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_help_and_wrong_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--help"], 0), (["page.md"], 2)):
        monkeypatch.setattr("sys.argv", ["pareto", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    printed = capsys.readouterr()
    assert "python -m benchmarks.pareto docs/performance.md docs/pareto.png" in printed.out
    assert "required: picture" in printed.err
