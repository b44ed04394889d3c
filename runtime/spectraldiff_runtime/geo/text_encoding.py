"""Encodings of the texts in shapefiles and CSV files: as declared where that holds, else guessed, and said."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from spectraldiff_runtime.errors import UsageError

# Western texts are mostly plain letters: these are tried first, where all other signs become letters.
WESTERN = ("cp1252", "cp850")
OPTION = "--encoding says another one"
SHOWN = 3  # words of a guess, so that a wrong one is seen
SIGNS = "°²³\u2013\u2019"  # with dash and apostrophe
OTHERS = [
    "cp1251", "koi8_r", "cp866", "cp1253", "cp737", "gb18030", "big5", "cp932", "euc_kr", "cp1255", "cp1256", "cp1250",
    "cp852",
]  # fmt: skip
# The language drivers of dBASE that name one encoding, as GDAL reads them.
DRIVERS = {1: "cp437", 2: "cp850", 3: "cp1252", 0x57: "cp1252", 0x64: "cp852", 0x65: "cp866", 0xC8: "cp1250",
           0xC9: "cp1251", 0xCB: "cp1253"}  # fmt: skip


@dataclass(frozen=True)
class TextEncoding:
    """The encoding of a file's texts, by Python's name, and how it was found if it is not the declared one."""

    name: str
    remark: str = ""


def checked_encoding(name: str) -> str:
    """Return Python's name of an encoding; UsageError where there is none of that name, or none that tables have."""
    found = _known(name)
    if found is None:
        raise UsageError(
            f"--encoding '{name}' is no known encoding of tables: wanted one such as UTF-8, cp1252 or cp850"
        )
    return found


def _known(name: str) -> str | None:
    """Return Python's name of an encoding in which ASCII stays what it is, as GDAL reads tables; None for any other."""
    plain = "x,1"
    try:
        found = codecs.lookup(name).name
        return found if plain.encode("ascii").decode(found) == plain else None
    except (LookupError, ValueError):  # UnicodeError is a ValueError
        return None


def encoding_of_dbf(path: Path, remedy: str = OPTION) -> TextEncoding | None:
    """Return the encoding of a dBASE table, a guess with `remedy`; None where it is all ASCII, or no such table."""
    texts = _dbf_texts(path)
    if texts.isascii():
        return None
    declared, said = _declared(path)
    if declared and _decodes(texts, declared):
        return TextEncoding(declared)
    why = f"'{path.with_suffix('.cpg').name}' says '{said}', which it is not" if said else "the file names none"
    return _guessed(path, texts, why, remedy)


def encoding_of_text(path: Path) -> TextEncoding | None:
    """Return the encoding of a text file; None for UTF-8."""
    content = path.read_bytes()
    return None if _decodes(content, "utf-8") else _guessed(path, content, "it is not UTF-8", OPTION)


def _guessed(path: Path, texts: bytes, why: str, remedy: str) -> TextEncoding:
    name = guess(texts)
    words = dict.fromkeys(re.findall(r"[^\s,;]*[^\x00-\x7f][^\s,;]*", texts.decode(name, "replace")))
    shown = ", ".join(f"'{word[:40]}'" for word in list(words)[:SHOWN])
    example = f", such as {shown}" if shown else ""
    return TextEncoding(name, f"the texts of '{path}' were read as {name}, a guess ({why}){example}: {remedy}")


def guess(texts: bytes) -> str:
    """Return the likely encoding of texts that are not all ASCII, by Python's name."""
    if _decodes(texts, "utf-8"):
        return "utf-8"
    high, plain = sum(byte > 127 for byte in texts), sum(bytes([byte]).isalpha() for byte in texts)
    if high <= plain:
        for name in WESTERN:
            if _decodes(texts, name) and all(c.isalpha() or c in SIGNS for c in texts.decode(name) if ord(c) > 127):
                return name
    import charset_normalizer

    best = charset_normalizer.from_bytes(texts, cp_isolation=OTHERS).best()
    return "cp1252" if best is None and _decodes(texts, "cp1252") else "latin-1" if best is None else best.encoding


def _decodes(texts: bytes, name: str) -> bool:
    try:
        texts.decode(name)
    except (ValueError, LookupError):  # UnicodeError is a ValueError
        return False
    return True


def _declared(path: Path) -> tuple[str, str]:
    """Return the encoding that a table declares, by Python's name or empty, and how its .cpg writes it."""
    files = [path.with_suffix(suffix) for suffix in (".cpg", ".CPG")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        with path.open("rb") as file:
            return DRIVERS.get(file.read(32)[29], ""), ""
    with found.open("rb") as file:
        said = file.read(80).decode("ascii", "replace").strip()
    code = re.fullmatch(r"(?:ansi|cp|ibm|oem|windows)?[ _-]*(\d{3,5})", said, re.IGNORECASE)
    return _known(f"cp{code[1]}" if code else said) or "", said


def _dbf_texts(path: Path) -> bytes:
    """Return the values of all text fields of a dBASE table, one a line, each once; its numbers are ASCII anyway."""
    content = path.read_bytes()
    if len(content) < 32:
        return b""
    start, size = int.from_bytes(content[8:10], "little"), int.from_bytes(content[10:12], "little")
    if size < 2 or start < 33:
        return b""
    kinds = [content[at : at + 32] for at in range(32, start - 1, 32)]
    fields, offset = [], 1
    for kind in kinds:
        if len(kind) == 32:
            fields += [(offset, offset + kind[16])] if kind[11:12] == b"C" else []
            offset += kind[16]
    rows = (content[at : at + size] for at in range(start, len(content) - size + 1, size))
    values = {row[first:last].strip(b" \0") for row in rows for first, last in fields}
    return b"\n".join(sorted(values))
