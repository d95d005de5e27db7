"""How the router spread its work: which experts, how many, on which classes, and what it cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaimoe_audio.training.assess import Answers

Floats = NDArray[np.float32]


def expert_usage(
    answers: Answers, experts: tuple[str, ...], targets: Floats, labels: tuple[str, ...]
) -> dict[str, Any]:
    """What the routed answers for N recordings with targets [N, L] ran.

    ``selection_rate``: share of windows in which an expert runs; ``pair_share``: its share of all pairs run;
    ``gate_share``: its share of all gates; ``k_histogram``: windows by number of experts used; ``k_mean`` and
    ``pairs_per_window``: means; ``load_balance``: 1 when all experts run equally many pairs, E when one runs all;
    ``per_class``: for the windows of each class that is there, ``k_mean``, ``pairs_per_window`` and ``pair_share``.
    """
    gates = answers.outputs.gates
    used = gates > 0
    share = _share(used)
    k = used.any(axis=1).sum(axis=1)
    heard = targets[answers.owners] > 0
    return {
        "selection_rate": dict(zip(experts, used.any(axis=1).mean(axis=0).tolist(), strict=True)),
        "pair_share": dict(zip(experts, share.tolist(), strict=True)),
        "gate_share": dict(zip(experts, _share(gates).tolist(), strict=True)),
        "k_histogram": {str(n): int((k == n).sum()) for n in range(len(experts) + 1)},
        "k_mean": float(k.mean()),
        "pairs_per_window": float(used.sum(axis=(1, 2)).mean()),
        "pairs_possible": int(used[0].size),
        "load_balance": float(len(experts) * np.square(share).sum()),
        "per_class": {
            label: {
                "k_mean": float(k[heard[:, i]].mean()),
                "pairs_per_window": float(used[heard[:, i]].sum(axis=(1, 2)).mean()),
                "pair_share": dict(zip(experts, _share(used[heard[:, i]]).tolist(), strict=True)),
            }
            for i, label in enumerate(labels)
            if heard[:, i].any()
        },
    }


def _share(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Each expert's share of [W, P, E]; zeros if there is nothing to share."""
    total = weights.sum(axis=(0, 1), dtype=np.float64)
    return np.asarray(total / max(total.sum(), 1e-12))


def macs_run(routed: Floats, dense: Floats, costs: dict[str, int], floor: int) -> dict[str, float]:
    """Mean multiply-accumulates a window after the frontend: ``floor`` (no pair), ``routed`` and ``dense``, and those
    of the experts alone.

    Args:
        routed: gates [W, P, E] of the pairs that the router chose.
        dense: those of all compatible pairs.
        costs: of each expert, for one patch.
        floor: of everything that always runs.
    """
    each = np.array(list(costs.values()), np.float64)
    some, every = (float(((gates > 0).sum(axis=(0, 1)) * each).sum() / len(gates)) for gates in (routed, dense))
    return {
        "floor": float(floor),
        "routed": floor + some,
        "dense": floor + every,
        "experts_routed": some,
        "experts_dense": every,
        "experts_share": some / every if every else 0.0,
    }


def describe_usage(split: str, usage: dict[str, Any]) -> str:
    """What ``expert_usage`` found, as text for a terminal."""
    lines = [
        f"{split}: {usage['pairs_per_window']:.1f} of {usage['pairs_possible']} pairs and {usage['k_mean']:.2f} "
        f"experts a window, load balance {usage['load_balance']:.2f} (1 is even)"
    ]
    lines += [
        f"  {name:<24} in {rate:6.1%} of windows, {usage['pair_share'][name]:6.1%} of pairs"
        for name, rate in usage["selection_rate"].items()
    ]
    histogram = ", ".join(f"{k} in {n}" for k, n in usage["k_histogram"].items())
    lines.append(f"  experts used: {histogram} windows")
    for label, found in usage["per_class"].items():
        most = max(found["pair_share"], key=found["pair_share"].get)
        lines.append(
            f"  {label:<24} {found['pairs_per_window']:5.1f} pairs, {found['k_mean']:.2f} experts, "
            f"{found['pair_share'][most]:.0%} of pairs by {most}"
        )
    return "\n".join(lines)
