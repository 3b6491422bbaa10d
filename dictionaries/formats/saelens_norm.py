"""What SAELens' `normalize_activations` means: a norm of each token, or one factor for all."""

from __future__ import annotations

from pathlib import Path

from ..edits import Norm
from ..errors import DictionaryError
from .common import Config, Given, is_number


def norm_and_scale(config: Config, given: Given, path: Path) -> tuple[Norm, float]:
    """(what is done to each token, the constant factor its inputs were multiplied by)."""
    said = config.get("normalize_activations", "none")
    if said == "covariance_whitening":  # folded into the weights when they were saved
        said = "none"
    if said in (True, False, None):  # before v3
        said = "expected_average_only_in" if said else "none"
    if said in list(Norm):
        return Norm(said), 1.0
    if said != "expected_average_only_in":
        raise DictionaryError(
            f"{path}: normalize_activations {said!r} is not opened yet; known are "
            f"{', '.join(Norm)}, covariance_whitening and expected_average_only_in."
        )
    factor = given.norm_scaling_factor
    factor = config.get("norm_scaling_factor") if factor is None else factor
    if not is_number(factor) or factor <= 0:
        raise DictionaryError(
            f"{path} says expected_average_only_in: its inputs were multiplied by a factor that "
            "the files do not hold, and without it every activation would be wrong. Add "
            '"norm_scaling_factor": sqrt(d_in) / (mean length of the residual vectors) to '
            "cfg.json, or say it behind the name (NAME?norm_scaling_factor=…); SAELens' registry "
            "lists it for published SAEs."
        )
    return Norm.NONE, float(factor)
