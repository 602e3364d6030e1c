"""In which mode a network is judged as it is trained."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isometry.verdicts._measured import Measured

# As certificates say it of a model that cannot be had as it is trained.
_INFERENCE_ONLY = "inference mode only"


def mode_of_training(measured: "Measured") -> str:
    """Return the mode that gradients and training speak of, for the end of a reason.

    Nothing need be said of a function that computes the same in both modes.
    """
    if measured.subject.training is not None:
        return " (in training mode)"
    modes = {certificate.mode for certificate in measured.certificates}
    if _INFERENCE_ONLY not in modes:
        return ""
    return f" (for training in {_INFERENCE_ONLY})"
