"""Check what the default audit wrote: strict JSON, and the story it must tell."""

import json
import pathlib
import sys

PROVENANCE = {"versions", "device", "x64", "command", "git_commit", "time"}


def refuse(constant: str) -> None:
    """Refuse NaN and infinity, which JSON does not have."""
    raise ValueError(f"audit.json holds {constant}")


folder = pathlib.Path(sys.argv[1])
result = json.loads((folder / "audit.json").read_text(), parse_constant=refuse)
assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
assert result["provenance"].keys() >= PROVENANCE
reports = result["reports"]
assert len(reports) == 7, list(reports)


def flag(scheme: str, name: str) -> dict:
    """Return what the audit says of a scheme under a flag."""
    return reports[scheme]["flags"][name]


locked = flag("partial_identity", "rank_constrained_training")
assert locked["state"] == "raised"
assert locked["value"] <= 64
for scheme in ("partial_identity", "zer_o"):
    assert flag(scheme, "locked_symmetry")["state"] == "raised", scheme
for scheme in ("orthogonal", "gaussian"):
    assert flag(scheme, "locked_symmetry")["state"] == "clear", scheme
for scheme in ("orthogonal", "gaussian", "zer_o"):
    found = flag(scheme, "rank_constrained_training")
    assert found["state"] == "clear", (scheme, found)
    assert found["value"] > 64, (scheme, found)
widths = reports["partial_identity"]["width_independence"]
assert widths["largest_difference"] <= 1
print("audit.json tells the story: partial identity is rank-constrained,")
print("orthogonal, gaussian and zer_o are not")
