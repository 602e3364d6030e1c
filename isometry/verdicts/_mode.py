"""The mode, training or inference, in which gradients and training are judged."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isometry.verdicts._measured import Measured

# `Certificate.mode` of a network that trains in a mode that is not known here.
_INFERENCE_ONLY = "inference mode only"


def mode_of_training(measured: "Measured") -> str:
    """Return the mode in which gradients were taken, for the end of a flag's reason.

    The text is empty for a function that computes the same in both modes.
    """
    if measured.subject.training is not None:
        return " (in training mode)"
    modes = {certificate.mode for certificate in measured.certificates}
    if _INFERENCE_ONLY not in modes:
        return ""
    return f" (for training in {_INFERENCE_ONLY})"
