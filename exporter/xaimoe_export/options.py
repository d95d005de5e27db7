"""What a bundle is to hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from xaimoe_export.plan import PrecisionPlan
from xaimoe_runtime import ConfigError
from xaimoe_runtime.choices import number_within
from xaimoe_runtime.schema import PRECISIONS, Precision


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is to hold, and how far it may be from PyTorch.

    Raises:
        ConfigError: a value is not among the choices.
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    fused: bool = False
    """Whether it holds the whole line as one graph, too."""
    plan: PrecisionPlan | None = None
    """Which graphs run in which precision, instead of choosing."""
    sign: Path | None = None
    """Ed25519 private key in PEM that the manifest is signed with."""
    triton: Path | None = None
    """Folder for a Triton model repository; the bundle then holds the fused graph."""
    licence: str | None = None
    """Identifier of the licence that the model is given out under."""
    force: bool = False
    """Whether a bundle that is there is replaced."""
    score_tolerance: float = 1e-4
    """Largest absolute difference of a score from PyTorch's, in FP32."""
    accuracy_tolerance: float = 0.005
    """Accuracy that another precision may lose on the validation recordings."""

    def __post_init__(self) -> None:
        chosen = set(self.precisions)
        if not chosen or len(chosen) < len(self.precisions) or chosen - set(PRECISIONS):
            raise ConfigError(
                f"precision: found {', '.join(map(str, self.precisions)) or 'none'}, expected some of "
                f"{', '.join(PRECISIONS)}, each once"
            )
        if self.licence is not None and not re.fullmatch(r"[A-Za-z0-9.+-]+", self.licence):
            raise ConfigError(f"licence: found {self.licence!r}, expected an identifier such as MIT or CC-BY-4.0")
        for name in ("score_tolerance", "accuracy_tolerance"):
            number_within(getattr(self, name), name, 0)

    @property
    def needs_fused(self) -> bool:
        """Whether the fused graph is made."""
        return self.fused or self.triton is not None

    def identifying(self) -> dict[str, object]:
        """Those that a bundle's bytes hang on."""
        return {
            "precisions": self.precisions,
            "fused": self.needs_fused,
            "plan": self.plan,
            "licence": self.licence,
            "accuracy_tolerance": self.accuracy_tolerance,
        }
