"""What the numbers of a report mean, in a sentence each.

Flags and thresholds are defined where they are registered; here are the others.
"""

import inspect
import re

from isometry.verdicts._registry import SHARED, Thresholds, registered

# Statistics of a spectrum, by the names of `Report.statistics`.
STATISTICS = {
    "s_min": "The smallest singular value of the Jacobian. Of a value below the floor "
    "of the method only that is known, and the floor stands behind <.",
    "s_median": "The median of the singular values: half of them are smaller.",
    "s_max": "The largest singular value: the most that a small change of the input "
    "is stretched.",
    "mean_s2": "The mean of s², the factor by which the squared norm of a random "
    "change grows from input to output.",
    "isometry_deviation": "√E(s − 1)², the distance from isometry: 0 if every s is 1.",
    "effective_rank": "exp of the entropy of s/Σs: how many directions share the "
    "stretching. Behind the slash is the number of singular values.",
    "zero_fraction": "The share of the singular values that are zero, or too small "
    "for the method to tell from zero: the mean over seeds and inputs.",
}

# Columns of the table of layers.
LAYERS = {
    "layer": "The name of a weight, by its path in the parameters.",
    "shape": "The shape of the weight.",
    "q": "The mean square of the pre-activations of the layer.",
    "chi": "The growth of a squared derivative from the layer before to this one; at "
    "the end of a residual block, over the block.",
    "gradient": "The norm of the gradient of the loss with respect to this weight.",
    "distinct": "How many slices along each axis of the weight can ever differ in "
    "training; fewer than its shape are locked.",
    "never": "The share of the entries that never move, whatever the data.",
    "rank": "The highest rank that an update of the weight can have, in front of the "
    "slash; behind it the highest that its shape allows.",
    "grade": "How sure a certificate is. Bit for bit: no rounding breaks it. In exact "
    "arithmetic: rounding may. Evidence: it was seen, and is no proof.",
    "flags": "The raised flags that name this layer.",
}

# Everything else that has a number.
OTHERS = {
    "s": "A singular value of the Jacobian of the output with respect to the input.",
    "law": "The density that theory predicts for the hidden layers at infinite width.",
    "outside": "Values that are resolved, but beyond the ends of the axis; of a law, "
    "its mass there.",
    "unresolved": "Values that are not zero, but below the rounding floor of the "
    "method: they may be zeros or not.",
    "zeros": "Singular values that are exactly zero.",
    "loss": "The loss on the batch of a step, before the step; the median over the "
    "trained seeds.",
    "learning rate": "The learning rate of the training probe: the largest one that "
    "is tried whose loss does not overflow.",
    "rank reached": "The rank of the sum of all gradients so far, of the middle "
    "hidden layer: how many directions training has moved it in.",
    "how sure": "The interval of a value over seeds, by resampling, at the confidence "
    "that is among the thresholds of the audit. If it holds the threshold, the flag is "
    "undecided.",
    "raised": "Something is wrong by this flag.",
    "undecided": "It cannot be told from these seeds; the reason says what is missing.",
    "clear": "Nothing is wrong by this flag.",
    "not run": "Nothing was measured for this flag.",
}

# A line of the docstring of `Thresholds`: "- log_gain, 3: vanishing and exploding at".
_LINE = re.compile(r"^- (\w+), [^:]+: (.+?)(?=^- |\n\n|\Z)", re.MULTILINE | re.DOTALL)

_NO_DOCSTRING = "Not known here, as Python was run with -OO, which drops docstrings."


def of_flags() -> dict[str, str]:
    """Return what raises each flag, and where its threshold comes from."""
    meanings = {}
    for one in registered():
        # Of a user's own flag there may be no docstring either; its source is left.
        summary = (inspect.getdoc(one.judge) or "").partition("\n\n")[0]
        question = " ".join(summary.split()).removeprefix("Judge ")
        words = question[:1].upper() + question[1:]
        meanings[one.name] = f"{words} Source: {one.source}.".strip()
    return meanings


def of_thresholds() -> dict[str, str]:
    """Return what each threshold of the package decides."""
    doc = inspect.getdoc(Thresholds) or ""
    meanings = {name: " ".join(text.split()) for name, text in _LINE.findall(doc)}
    return {name: meanings.get(name, _NO_DOCSTRING) for name in SHARED}
