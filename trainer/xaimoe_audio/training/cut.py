"""A cut budget, as a device has it, for a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def cut(gates: Tensor, pairs: Tensor) -> Tensor:
    """Gates [B, P, E] of which as many stay as ``pairs`` [B] says: first the best expert of each patch, the largest
    gates first, then the second of each … (as ``xaimoe_runtime.budget`` has it for pairs of one cost)."""
    opinion = _ranks(gates, 2)
    worth = torch.where(gates > 0, gates - opinion, -torch.inf)  # a gate is at most 1
    return gates * (_ranks(worth.flatten(1), 1) < pairs[:, None]).reshape_as(gates)


def _ranks(values: Tensor, dim: int) -> Tensor:
    """0 for the largest along ``dim``, 1 for the next …; of equals, the first comes first."""
    falling = torch.argsort(values, dim=dim, descending=True, stable=True)
    return torch.argsort(falling, dim=dim)
