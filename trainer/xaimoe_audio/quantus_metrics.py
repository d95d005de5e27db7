"""Quantus's metrics of one explanation of one clip (A. Hedström et al., "Quantus", 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT
from xaimoe_audio.training.faithfulness import area
from xaimoe_runtime.errors import ProviderError

Explainer = Callable[[nn.Module, Tensor, int], Tensor]
"""(model, spectrogram [1, 1, F, T], number of the label) -> what speaks for the label, [F, T], at least 0."""
STEPS = 16
"""Parts in which cells are flipped."""
REMOVED = (10, 30, 50, 70, 90)
"""Percentages of the cells that ROAD removes."""
NOISE, DRAWS = 0.2, 10
"""Largest change of a cell, in deviations of its band, and how often all are changed, for the sensitivity."""


TIES = 1e-6
"""Of a map's maximum, that its cells differ by at random: equal ones have no order, and Quantus refuses even maps."""


class QuantusMetrics:
    """Pixel flipping (S. Bach et al., 2015), ROAD (Y. Rong et al., 2022), max-sensitivity (C. Yeh et al., 2019),
    sparseness (P. Chalasani et al., 2020) and the randomisation of all weights (J. Adebayo et al., 2018).

    Args:
        bins, frames: of a spectrogram.
        seed: of the noise and of the random weights.

    Raises:
        ProviderError: Quantus is missing.
    """

    def __init__(self, bins: int, frames: int, seed: int) -> None:
        try:
            import quantus
        except ImportError as error:
            raise ProviderError('faithfulness needs Quantus; run: pip install "xai-moe-audio[faithfulness]"') from error
        self._draw = np.random.default_rng(seed)

        def noisy(arr: NDArray[Any], **_: Any) -> NDArray[Any]:
            return (arr + self._draw.uniform(-NOISE, NOISE, arr.shape)).astype(arr.dtype)

        as_it_is: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
        at_least_0 = as_it_is | {"abs": True}  # which maps are; these two insist
        self._flipping = quantus.PixelFlipping(
            features_in_step=_divisor(bins * frames, STEPS), perturb_baseline=-SPECTROGRAM_LIMIT, **as_it_is
        )
        self._road = quantus.ROAD(percentages=list(REMOVED), **as_it_is)
        self._sensitivity = quantus.MaxSensitivity(nr_samples=DRAWS, perturb_func=noisy, **as_it_is)
        self._sparseness = quantus.Sparseness(**at_least_0)
        self._randomisation = quantus.MPRT(skip_layers=True, return_last_correlation=True, seed=seed, **at_least_0)

    def __call__(
        self, model: nn.Module, spectrogram: Tensor, cells: Tensor, target: int, explainer: Explainer
    ) -> dict[str, float]:
        """Values by metric, and ROAD's by percentage as ``road 10`` …; NaN where a metric is not defined.

        Args:
            model: ``spectrogram`` -> scores [B, L], in evaluation.
            spectrogram: [1, 1, F, T]; a cell that is flipped becomes silent.
            cells: [F, T], the explanation, at least 0.
            target: number of the label that it explains.
            explainer: makes it.
        """

        def explain_func(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> NDArray[Any]:
            heard = torch.as_tensor(inputs, dtype=spectrogram.dtype, device=spectrogram.device)
            return self._as_array(explainer(model, heard, int(targets[0])))

        about = {
            "model": model,
            "x_batch": spectrogram.cpu().numpy(),
            "y_batch": np.array([target]),
            "a_batch": self._as_array(cells),
            "explain_func": explain_func,
            "device": str(spectrogram.device),
            "channel_first": True,
            "softmax": False,  # they are scores already
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own parameters, and of the packages it needs
            with torch.no_grad():
                whole = model(spectrogram)[0, target]
            flipped = torch.tensor([float(whole), *self._flipping(**about)[0]])
            found = {
                "pixel_flipping": float(area(flipped[:, None])),
                "max_sensitivity": float(self._sensitivity(**about)[0]),
                "sparseness": float(self._sparseness(**about)[0]),
                "randomisation": float(self._randomisation(**about)[0]),
            }
            kept = self._road(**about)
        found |= {f"road {percentage}": float(kept[percentage]) for percentage in REMOVED}
        return found | {"road": float(np.mean([kept[percentage] for percentage in REMOVED]))}

    def _as_array(self, cells: Tensor) -> NDArray[np.float32]:
        """A map as Quantus takes it, [1, 1, F, T]; one that names nothing is even."""
        found: NDArray[Any] = cells.cpu().numpy() if cells.any() else np.ones(cells.shape, np.float32)
        found = found + TIES * found.max() * self._draw.random(found.shape)
        return found.astype(np.float32)[None, None]


def _divisor(cells: int, parts: int) -> int:
    """Cells in a step: Quantus takes only what divides their number."""
    return next(size for size in range(cells // parts, 0, -1) if cells % size == 0)
