"""The processor's instructions for sums of 8-bit products: int8 models were verified with one of them."""

import platform
from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")
# As Linux names them and as people do, the fastest first.
NAMES = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx512bw": "AVX-512",
    "avx2": "AVX2",
    "i8mm": "I8MM",
    "asimddp": "dot product of Armv8.2",
    "asimd": "Neon",
}


def int8_instructions() -> tuple[str, ...]:
    """Return the instructions that this processor has, the fastest first; none where the system does not tell."""
    try:
        lines = CPU_FACTS.read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return ()
    told = [line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() in ("flags", "Features")]
    return tuple(name for flag, name in NAMES.items() if told and flag in told[0])


def processor() -> str:
    """Return the processor's kind and its fastest instructions, such as ``"x86_64, AVX-512 VNNI"``."""
    return ", ".join([platform.machine() or "unknown", *int8_instructions()[:1]])


def unlike(verified: str) -> str:
    """Say in what this processor is unlike the one that an int8 model was `verified` on; empty where in nothing."""
    machine, _, wanted = verified.partition(", ")
    own = platform.machine() or "unknown"
    if own != machine:
        return f"this one is {own}"
    found = int8_instructions()
    if not wanted or wanted in found:
        return ""
    return f"this one has {found[0]}" if found else "what this one has is not known"
