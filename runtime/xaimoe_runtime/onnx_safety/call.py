"""One operator at work, with what is known of its inputs: what the rules of the operators' sizes are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

from xaimoe_runtime.onnx_safety.graph import MAX_RANK, MAX_VALUES, Node, Tensor, UnsafeGraphError
from xaimoe_runtime.onnx_safety.sizes import Axes, Size

Shape = tuple[Size, ...]
ONE = Size.of(1)


@dataclass(frozen=True)
class Known:
    """What is known of a tensor before anything is run."""

    data_type: int
    shape: Shape
    values: tuple[Size, ...] | None = None
    """Of a small tensor of whole numbers, flat, if they follow from constants and shapes alone."""
    floats: tuple[float, ...] | None = None
    """Of a small constant tensor of floating-point numbers, flat."""

    @property
    def elements(self) -> Size:
        """How many there are."""
        return product(self.shape)


def product(sizes: Sequence[Size]) -> Size:
    """Return the product of sizes."""
    return reduce(Size.__mul__, sizes, ONE)


@dataclass
class Call:
    """One node with what is known of its inputs."""

    node: Node
    inputs: tuple[Known | None, ...]
    """None where an optional input is left out."""
    axes: Axes
    work: Size = field(default_factory=lambda: Size.of(0))
    """Multiply-accumulates, of operators that add up more than they put out."""
    scratch: Known | None = None
    """What the operator holds besides its outputs while it runs."""

    def refuse(self, found: str, expected: str) -> UnsafeGraphError:
        """Return the error of this node."""
        return UnsafeGraphError(f"{found} in {self.node.where}", expected)

    def get(self, index: int) -> Known | None:
        """Return an optional input."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Known:
        """Return an input that must be there."""
        known = self.get(index)
        if known is None:
            raise self.refuse(f"no input {index}", "one")
        return known

    def integer(self, name: str, default: int) -> int:
        """Return a whole number among the attributes."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refuse(f"the attribute {name} of another type", "a whole number")
        return value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return a list of whole numbers among the attributes; None if there is none."""
        value = self.node.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, tuple) or not all(isinstance(one, int) for one in value):
            raise self.refuse(f"the attribute {name} of another type", "whole numbers")
        if len(value) > MAX_VALUES:
            raise self.refuse(f"{len(value)} numbers of the attribute {name}", f"at most {MAX_VALUES}")
        return tuple(int(one) for one in value)

    def text(self, name: str, default: str) -> str:
        """Return a text among the attributes."""
        value = self.node.attributes.get(name)
        if value is None:
            return default
        if not isinstance(value, bytes):
            raise self.refuse(f"the attribute {name} of another type", "a text")
        return value.decode(errors="replace")

    def tensor(self, name: str) -> Tensor | None:
        """Return a tensor among the attributes; None if there is none."""
        value = self.node.attributes.get(name)
        if value is not None and not isinstance(value, Tensor):
            raise self.refuse(f"the attribute {name} of another type", "a tensor")
        return value

    def values(self, index: int, what: str) -> tuple[Size, ...]:
        """Return the values of an input that says how large the output is.

        Raises:
            UnsafeGraphError: they are only known at run time.
        """
        known = self.need(index)
        if known.values is None:
            raise self.refuse(f"{what} that only a run would show", "a constant, or one computed from shapes alone")
        return known.values

    def counts(self, index: int, what: str) -> tuple[Size, ...]:
        """Return the values of an input, which are never negative."""
        values = self.values(index, what)
        if any(self.axes.smallest(value) < 0 for value in values):
            raise self.refuse(f"{what} that may be negative", "0 or more")
        return values

    def constants(self, index: int, what: str) -> tuple[int, ...]:
        """Return the values of an input that must not depend on the batch either."""
        found = [value.constant for value in self.values(index, what)]
        numbers = tuple(value for value in found if value is not None)
        if len(numbers) > 2 * MAX_RANK:
            raise self.refuse(f"{len(numbers)} {what}", f"at most {2 * MAX_RANK}")
        if len(numbers) < len(found):
            raise self.refuse(f"{what} that depends on the batch", "a constant")
        return numbers

    def axis(self, value: int, rank: int) -> int:
        """Return an axis as a number of 0 or more."""
        if not -rank <= value < rank:
            raise self.refuse(f"the axis {value}", f"one of {rank} axes")
        return value % rank

    def at_most(self, size: Size) -> Size:
        """Return a size that is not known, but no larger than another one."""
        return self.axes.at_most(size)

    def if_positive(self, size: Size, least: int = 0) -> Size:
        """Return a size if it is never less than ``least``, else one that is only known to be no larger."""
        return size if self.axes.smallest(size) >= least else self.at_most(size)

    def divided(self, size: Size, by: int) -> Size:
        """Return the whole part of the quotient of a size: exact, or a bound."""
        if by < 1:
            raise self.refuse(f"a division by {by}", "by 1 or more")
        constant = size.constant
        if constant is not None:
            return Size.of(constant // by)
        exact = size.divided(Size.of(by))
        if exact is not None and self.axes.smallest(size) >= 0:
            return exact
        return self.axes.up_to(self.axes.largest(size) // by, self.axes.largest(size, single=True) // by)

    def broadcast(self, *shapes: Shape) -> Shape:
        """Return the shape that several are broadcast to."""
        rank = max(map(len, shapes), default=0)
        if rank > MAX_RANK:
            raise self.refuse(f"a tensor of {rank} axes", f"at most {MAX_RANK}")
        padded = [(ONE,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
        return tuple(reduce(self._wider, sizes) for sizes in zip(*padded, strict=True))

    def _wider(self, one: Size, other: Size) -> Size:
        """The size that two are broadcast to: equal ones stay, a 1 gives way."""
        if one == other or other == ONE:
            return one
        if one == ONE:
            return other
        known, given = one.constant, other.constant
        if known is not None and given is not None:
            raise self.refuse(f"sizes {known} and {given} of one axis", "equal ones, or 1")
        if known is not None or given is not None:
            return one if known is not None else other  # the other one is then 1 or the same, or the run fails
        larger = [max(self.axes.largest(one, single), self.axes.largest(other, single)) for single in (False, True)]
        return self.axes.up_to(*larger)


def known_of(tensor: Tensor) -> Known:
    """Return what is known of a constant."""
    values = None if tensor.integers is None else tuple(Size.of(value) for value in tensor.integers)
    return Known(tensor.data_type, tuple(Size.of(size) for size in tensor.shape), values, tensor.floats)
