"""What kind of processor this machine has: absolute times belong to it."""

import pathlib
import platform
import re

_CPUINFO = pathlib.Path("/proc/cpuinfo")

# Flags of Linux for the widest vectors, in falling width. Under one model name clouds
# have machines of several, and the rate of a matrix product follows the width.
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE"}


def processor() -> str:
    """Name the processor of this machine and its widest vector instructions.

    Returns:
        Such as "AMD EPYC 7B13, AVX2". The architecture where the system names no model,
        and no vectors where it names none.
    """
    fields = _fields()
    model = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags", fields.get("Features", "")).split()
    vectors = [name for flag, name in _VECTORS.items() if flag in flags]
    return ", ".join([model, *vectors[:1]])


def _fields() -> dict[str, str]:
    """Read the fields of the first processor of /proc/cpuinfo."""
    try:
        first = _CPUINFO.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    lines = [line.partition(":") for line in first.split("\n")]
    return {name.strip(): value.strip() for name, _, value in lines}


def file_name(kind: str) -> str:
    """Make a part of a file's name of the kind of a processor or a GPU."""
    # Intel's names carry marks and the clock's rate: Xeon(R) CPU @ 2.20GHz.
    short = re.sub(r"\((r|tm)\)| @ [\d.]+ghz", "", kind.lower())
    return re.sub(r"[^a-z0-9]+", "-", short).strip("-")
