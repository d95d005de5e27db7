"""Figures of merit of a split, from pooled scores and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    binary_average_precision,
    binary_calibration_error,
    binary_f1_score,
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from xaimoe_runtime.schema import TaskSpec

Floats = NDArray[np.float32]
DIGITS = 6
"""After the point; float32 knows no more."""


def measure(scores: Floats, targets: Floats, task: TaskSpec) -> dict[str, Any]:
    """Metrics of N recordings: scores [N, L] against targets [N, L].

    Single-label: ``accuracy``, ``macro_f1``, ``ece`` (the expected calibration error of the top class, 15 bins; C. Guo
    et al., 2017), ``per_class`` (F1), ``confusion`` (rows are the truth). Multi-label: ``mAP`` (macro), ``macro_f1``
    and ``accuracy`` (all labels right) at the thresholds, ``ece`` (each class's own, their mean), ``per_class``
    (average precision). Classes that the split does not hold are left out of the means; of a split that holds no class
    at all ``mAP``, ``macro_f1`` and ``ece`` are None. Silence, whose scores are all 0, has no class: of one label it
    counts as wrong, and stands in no column of the confusion matrix.
    """
    predicted, truth = torch.from_numpy(scores), torch.from_numpy(targets)
    present = [i for i in range(len(task.labels)) if targets[:, i].any()]
    figures: dict[str, Any] = {"recordings": len(scores)}
    if task.kind == "single_label":
        classes, wanted = len(task.labels), truth.argmax(1)
        answered = predicted.any(1)
        labels = torch.where(answered, predicted.argmax(1), classes)  # the last is none of them
        per_class = multiclass_f1_score(labels, wanted, classes + 1, average="none")[:classes]
        figures["accuracy"] = _figure(multiclass_accuracy(labels, wanted, classes + 1, average="micro"))
        figures["macro_f1"] = _figure(per_class[present].mean())
        figures["ece"] = _figure(multiclass_calibration_error(predicted, wanted, classes, n_bins=15))
        confusion = multiclass_confusion_matrix(labels, wanted, classes + 1)
        figures["confusion"] = confusion[:classes, :classes].tolist()
    else:
        wanted, over = truth.int(), (predicted >= torch.tensor(task.thresholds)).int()
        per_class = torch.zeros(len(task.labels))
        f1 = torch.zeros(len(task.labels))
        ece = torch.zeros(len(task.labels))
        for i in present:
            per_class[i] = binary_average_precision(predicted[:, i], wanted[:, i])
            f1[i] = binary_f1_score(over[:, i], wanted[:, i])
            ece[i] = binary_calibration_error(predicted[:, i], wanted[:, i], n_bins=15)
        figures["accuracy"] = _figure((over == wanted).all(1).float().mean())
        figures["macro_f1"] = _figure(f1[present].mean()) if present else None
        figures["ece"] = _figure(ece[present].mean()) if present else None
        figures["mAP"] = _figure(per_class[present].mean()) if present else None
    figures["per_class"] = {task.labels[i]: _figure(per_class[i]) for i in present}
    return figures


def _figure(value: torch.Tensor) -> float:
    """A float32 as a figure for people: 0.95, and not 0.949999988079071."""
    return round(float(value), DIGITS)


def headline(task: TaskSpec) -> str:
    """The one metric that a task is judged by."""
    return "accuracy" if task.kind == "single_label" else "mAP"
