"""Sizes of tensors that depend on the batch: polynomials in the dynamic axes, each of which has a largest value.

A size is exact for every batch, or it is an axis of its own of which only the largest value is known
(:meth:`Axes.up_to`). To take a bound for the size itself would be wrong: what is subtracted from something, or divides
it, makes the result larger the smaller it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

MAX_TERMS, MAX_DEGREE = 8, 6
"""Of a polynomial; one that would be larger is replaced by its bound."""


class Size:
    """A whole number that may depend on dynamic axes: a coefficient for each product of axes, sorted by name."""

    __slots__ = ("constant", "largest", "terms")

    def __init__(self, terms: Mapping[tuple[str, ...], int]) -> None:
        self.terms = terms
        self.constant: int | None = None
        """The value, if it depends on no axis."""
        if not terms:
            self.constant = 0
        elif len(terms) == 1:
            self.constant = terms.get(())
        self.largest: tuple[int, int] | None = None
        """Bounds at the largest batch and for a batch of one, once :class:`Axes` has computed them."""

    @classmethod
    def of(cls, value: int | str) -> Size:
        """Return a constant, or the size of a dynamic axis by its name."""
        return cls({(value,): 1}) if isinstance(value, str) else cls({(): value} if value else {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __add__(self, other: Size) -> Size:
        terms = dict(self.terms)
        for axes, coefficient in other.terms.items():
            terms[axes] = terms.get(axes, 0) + coefficient
        return Size({axes: value for axes, value in terms.items() if value})

    def __sub__(self, other: Size) -> Size:
        return self + other * Size.of(-1)

    def __mul__(self, other: Size) -> Size:
        if self.constant is not None and other.constant is not None:
            return Size.of(self.constant * other.constant)
        terms: dict[tuple[str, ...], int] = {}
        for mine, coefficient in self.terms.items():
            for theirs, factor in other.terms.items():
                axes = tuple(sorted(mine + theirs))
                terms[axes] = terms.get(axes, 0) + coefficient * factor
        return Size({axes: value for axes, value in terms.items() if value})

    def divided(self, other: Size) -> Size | None:
        """Return the quotient if it is exact for every batch and ``other`` is a single product; else None."""
        if len(other.terms) != 1:
            return Size.of(1) if self == other else None
        ((axes, divisor),) = other.terms.items()
        terms = {}
        for mine, coefficient in self.terms.items():
            left = list(mine)
            for axis in axes:
                if axis not in left:
                    return None
                left.remove(axis)
            if coefficient % divisor:
                return None
            terms[tuple(left)] = coefficient // divisor
        return Size(terms)


@dataclass(frozen=True)
class Range:
    """Values that an axis may have."""

    least: int
    most: int
    single: int
    """The most for a batch of one."""


@dataclass
class Axes:
    """The dynamic axes of a graph with the values that they may have, 0 or more."""

    ranges: dict[str, Range] = field(default_factory=dict)

    def add(self, name: str, least: int, most: int, single: int) -> Size:
        """Add an axis; return its size."""
        self.ranges[name] = Range(least, most, single)
        return Size.of(name)

    def largest(self, size: Size, single: bool = False) -> int:
        """Return an upper bound of a size, at the largest batch or for a batch of one."""
        if size.largest is None:
            positive = _positive(size)
            most, one = (sum(value * self._product(axes, of) for axes, value in positive) for of in ("most", "single"))
            size.largest = (most, one)
        return size.largest[single]

    def elements(self, shape: Sequence[Size]) -> tuple[int, int]:
        """Return upper bounds of the elements of a tensor at the largest batch and for a batch of one."""
        most = single = 1
        for size in shape:
            constant = size.constant
            most *= self.largest(size) if constant is None else constant
            single *= self.largest(size, single=True) if constant is None else constant
        return most, single

    def smallest(self, size: Size) -> int:
        """Return a lower bound of a size."""
        negative = Size({axes: -value for axes, value in size.terms.items()})
        low = sum(value * self._product(axes, "least") for axes, value in _positive(size))
        return low - sum(value * self._product(axes, "most") for axes, value in _positive(negative))

    def magnitude(self, size: Size) -> int:
        """Return an upper bound of the absolute value of a number, and of the sums on the way to it."""
        return sum(abs(value) * self._product(axes, "most") for axes, value in size.terms.items())

    def _product(self, axes: tuple[str, ...], which: str) -> int:
        return prod(int(getattr(self.ranges[axis], which)) for axis in axes)

    def up_to(self, most: int, single: int | None = None) -> Size:
        """Return a size of which only the largest value is known, at the largest batch and for a batch of one."""
        name = f"?{len(self.ranges)}"
        return self.add(name, 0, max(most, 0), max(most if single is None else single, 0))

    def at_most(self, size: Size) -> Size:
        """Return a size that is not known, but no larger than another one."""
        return self.up_to(self.largest(size), self.largest(size, single=True))

    def bounded(self, size: Size) -> Size:
        """Return the size, replaced by its bound if it has grown too complicated."""
        return size if is_simple(size) else self.at_most(size)


def is_simple(size: Size) -> bool:
    """Return whether a size has few terms, so that sums and products of sizes stay quick."""
    return len(size.terms) <= MAX_TERMS and all(len(axes) <= MAX_DEGREE for axes in size.terms)


def _positive(size: Size) -> list[tuple[tuple[str, ...], int]]:
    return [(axes, value) for axes, value in size.terms.items() if value > 0]
