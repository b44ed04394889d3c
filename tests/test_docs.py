"""Names and links in the documents: what they point to exists."""

import ast
import re
from pathlib import Path

import pytest

from spectraldiff_runtime.cli import run

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# The changelog speaks of names as they were.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
SOURCES = {"spectraldiff": ROOT, "spectraldiff_export": ROOT / "export", "spectraldiff_runtime": ROOT / "runtime"}
FILES = [
    f"/{path.relative_to(ROOT).as_posix()}"
    for top in ("spectraldiff", "export", "runtime", "benchmarks", "tests", "docs")
    for path in (ROOT / top).rglob("*")
    if "__pycache__" not in path.parts
] + [f"/{path.name}" for path in ROOT.iterdir()]
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
KEYS = {"spectraldiff.card", "spectraldiff.size", "spectraldiff.sha256"}  # of a model file's metadata
LINK = re.compile(r"\]\(([^)\s]+)\)")


def quoted(page: Path) -> list[str]:
    """Return what stands in backticks in a page's text, outside of code blocks."""
    return CODE.findall(FENCE.sub("", page.read_text("utf-8")))


def paths_in(page: Path) -> list[str]:
    """Return the source files and the folders of this repository that a page names."""
    path = re.compile(r"[\w./-]+\.py|(?:spectraldiff|export|runtime|benchmarks|tests|docs)/[\w./-]*")
    return [text for text in quoted(page) if path.fullmatch(text)]


def names_in(page: Path) -> list[str]:
    """Return the dotted names of our packages that a page gives, in text and in commands."""
    text = page.read_text("utf-8")
    found = re.findall(r"\b((?:spectraldiff(?:_export|_runtime)?|benchmarks)(?:\.[a-z]\w*)+)(?![\w/-])", text)
    return [name for name in found if name not in KEYS]


def is_path(path: str) -> bool:
    """Whether a file or folder of the repository is called so, or ends so."""
    return any(file.endswith(f"/{path.strip('/')}") for file in FILES)


def defined(module: Path) -> set[str]:
    """Return the names that a module defines or imports at its top level."""
    names = set()
    body = ast.parse(module.read_text("utf-8")).body
    for node in [*body, *(inner for outer in body if isinstance(outer, ast.If) for inner in outer.body)]:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name() as target):
                names.add(target.id)
            case ast.ImportFrom() | ast.Import():
                names.update(alias.asname or alias.name for alias in node.names)
    return names


def is_name(name: str) -> bool:
    """Whether a dotted name is a package, a module, or something that a module defines."""
    first, *rest = name.split(".")
    place = SOURCES.get(first, ROOT) / first
    while rest and (place / rest[0]).is_dir():
        place /= rest.pop(0)
    if rest and place.joinpath(f"{rest[0]}.py").is_file():
        place = place / f"{rest.pop(0)}.py"
    module = place if place.is_file() else place / "__init__.py"
    return not rest or rest[0] in defined(module)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def packages() -> list[str]:
    """Return the packages' folders, as the tree of ARCHITECTURE.md writes them."""
    return [
        f"{init.parent.name}/"
        for name, place in SOURCES.items()
        for init in sorted((place / name).rglob("__init__.py"))
        if init.parent != place / name
    ]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    assert [path for path in paths_in(page) if not is_path(path)] == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_modules_and_definitions_that_a_page_names_exist(page: Path) -> None:
    assert [name for name in names_in(page) if not is_name(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_and_headings_resolve(page: Path) -> None:
    local = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    broken = []
    for link in local:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_tree_of_the_architecture_names_each_package_and_no_other() -> None:
    blocks = FENCE.findall((ROOT / "ARCHITECTURE.md").read_text("utf-8"))
    tree = next(block for block in blocks if re.search("^runtime/", block, re.MULTILINE))
    lines = re.findall(r"^  ([\w/ |]+?)(?=  )", tree, re.MULTILINE)
    assert sorted(name for line in lines for name in line.split(" | ")) == sorted(packages())


def command_lines(page: Path) -> list[str]:
    """Return the commands of `sdiff` that a page gives, without what surrounds them."""
    text = page.read_text("utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith(("sdiff ", "    sdiff "))]
    return [line.partition("#")[0] for line in lines] + [code for code in quoted(page) if code.startswith("sdiff ")]


def test_commands_in_the_pages_have_the_options_that_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, set[str]] = {}
    for page in CURRENT:
        for line in command_lines(page):
            name, *words = line.split()[1:]
            given.setdefault(name, set()).update(re.match("--[a-z-]+", word)[0] for word in words if word[:2] == "--")
    given.pop("--help")
    assert set(given) >= {"train", "export", "map", "evaluate", "info", "datasets", "reconstruct"}
    wrong = []
    for name, options in given.items():
        assert run([*name.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        if name == "datasets":
            assert run(["datasets", "write", "--help"]) == 0
            shown += capsys.readouterr().out
        wrong += [f"{name} {option}" for option in options if not re.search(rf"{option}\b(?!-)", shown)]
    assert wrong == []


def test_options_in_the_table_of_whole_flight_lines_are_options_of_sdiff_map(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    section = page.partition("## Options for whole flight lines")[2].partition("\n## ")[0]
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section))
    assert run(["map", "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(options) > 20
    assert [option for option in options if not re.search(rf"{option}\b(?!-)", shown)] == []


def test_the_checks_find_what_does_not_exist() -> None:
    assert is_path("models/unet.py")
    assert not is_path("models/unat.py")
    assert is_name("spectraldiff_runtime.mapping.stages.map_block")
    assert not is_name("spectraldiff_runtime.mapping.stages.map_blok")
    assert not is_name("spectraldiff_runtime.mapping.stagez")
    assert "what-is-promised" in anchors(ROOT / "README.md")
    assert paths_in(ROOT / "ARCHITECTURE.md")
    assert names_in(ROOT / "ARCHITECTURE.md")
