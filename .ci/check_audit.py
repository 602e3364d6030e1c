"""Check what the default audit wrote: strict JSON, and the story it must tell."""

import json
import pathlib
import sys


def refuse(constant: str) -> None:
    """JSON has no NaN and no infinity."""
    raise ValueError(f"audit.json holds {constant}")


folder = pathlib.Path(sys.argv[1])
result = json.loads((folder / "audit.json").read_text(), parse_constant=refuse)
assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
reports = result["reports"]
assert len(reports) == 7, list(reports)
assert {"versions", "device", "x64", "command", "git_commit", "time"} <= result["provenance"].keys()

state = {name: report["flags"]["rank_constrained_training"] for name, report in reports.items()}
assert state["partial_identity"]["state"] == "raised"
assert state["partial_identity"]["value"] <= 64
locked = {name: report["flags"]["locked_symmetry"]["state"] for name, report in reports.items()}
assert locked["partial_identity"] == locked["zer_o"] == "raised"
assert locked["orthogonal"] == locked["gaussian"] == "clear"
assert reports["partial_identity"]["width_independence"]["largest_difference"] <= 1
for name in ("orthogonal", "gaussian", "zer_o"):
    assert state[name]["state"] == "clear", (name, state[name])
    assert state[name]["value"] > 64, (name, state[name])
print("audit.json tells the story: partial identity is rank-constrained, orthogonal, gaussian and zer_o are not")
