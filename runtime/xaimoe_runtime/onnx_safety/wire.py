"""Read and write protobuf messages strictly: whatever two parsers could take for two things is refused.

The wire format (https://protobuf.dev/programming-guides/encoding/) leaves room for differences: a number may be longer
than it needs to be, or overflow; a field may be unknown, come twice, or with another wire type. Parsers do not agree on
what such bytes mean, so a check by one says nothing about another. Here each of them is an error, and :func:`encode`
writes what was read in one canonical form, which is the only one that is passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple, NoReturn

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""
MAX_FIELDS = 100_000
"""Fields and packed numbers in one file; the largest graph that is exported has some 20,000."""

Parsed = dict[str, Any]
"""A message by field name: numbers are ``int``, texts ``str``, bytes a view of the file, messages ``Parsed``; repeated
fields are lists, but for ``FLOAT`` and ``DOUBLE``, whose values stay as they were written: 4 or 8 bytes each."""
REFUSED_FIELD: Final = "refused field"
"""Key under which a message has the name of a field that it must not have."""


class Kind(IntEnum):
    """How a field is written, and what it may hold."""

    INT64 = 1
    INT32 = 2
    UINT64 = 3
    FLOAT = 4
    DOUBLE = 5
    BYTES = 6
    TEXT = 7
    MESSAGE = 8
    REFUSED = 9
    """A field that exists, but that no graph of a bundle may have: its bytes are not read, only that it is there."""


class Field(NamedTuple):
    """One field of a message."""

    name: str
    kind: Kind
    repeated: bool = False
    packed: bool = False
    """Whether a repeated number is written in one piece; it is read either way."""
    message: str = ""
    """Name of the message that the field holds."""
    oneof: str = ""
    """Of the fields with the same word here, a message has one at most."""


class Schema:
    """All messages: their fields by number, by name of the message."""

    def __init__(self, messages: Mapping[str, Mapping[int, Field]]) -> None:
        self.messages = messages
        self.by_tag = {name: dict(_tagged(fields)) for name, fields in messages.items()}
        """The fields of a message by each tag that they may be written with, and whether they are packed there."""
        self.written = {
            name: [(field, varint(number << 3 | _wire_type(field))) for number, field in sorted(fields.items())]
            for name, fields in messages.items()
        }
        """The fields of a message in the order that they are written in, each with its tag."""
        self.oneofs = {name: _oneofs(fields) for name, fields in messages.items()}
        self.fixed = {
            name: [field.name for field in fields.values() if field.repeated and field.kind in _WIDTHS]
            for name, fields in messages.items()
        }
        """The repeated fields of fixed width."""


_WIRE_TYPES = {
    Kind.INT64: VARINT,
    Kind.INT32: VARINT,
    Kind.UINT64: VARINT,
    Kind.FLOAT: FIXED32,
    Kind.DOUBLE: FIXED64,
}
"""Of all other kinds: ``LENGTH``."""
_WIDTHS = {Kind.FLOAT: 4, Kind.DOUBLE: 8}


def _wire_type(field: Field) -> int:
    return LENGTH if field.packed else _WIRE_TYPES.get(field.kind, LENGTH)


def _tagged(fields: Mapping[int, Field]) -> list[tuple[int, tuple[Field, bool]]]:
    found: list[tuple[int, tuple[Field, bool]]] = []
    for number, field in fields.items():
        if field.kind is Kind.REFUSED:
            found += [(number << 3 | wire_type, (field, False)) for wire_type in (VARINT, FIXED64, LENGTH, FIXED32)]
            continue
        found.append((number << 3 | _WIRE_TYPES.get(field.kind, LENGTH), (field, False)))
        if field.repeated and field.kind in _WIRE_TYPES:
            found.append((number << 3 | LENGTH, (field, True)))
    return found


def _oneofs(fields: Mapping[int, Field]) -> list[frozenset[str]]:
    names = {field.oneof for field in fields.values() if field.oneof}
    return [frozenset(field.name for field in fields.values() if field.oneof == name) for name in names]


class WireError(ValueError):
    """Bytes that are no message, or that not every parser reads alike."""


def decode(content: bytes, message: str, schema: Schema) -> Parsed:
    """Return the message that ``content`` holds.

    Args:
        content: the whole message, and nothing else.
        message: its name in the schema.
        schema: all messages.

    Raises:
        WireError: the bytes are cut short, hold an unknown field, a field with another wire type, a single field twice,
            a number that overflows or is longer than it need be, a text that is no UTF-8, or too many fields.
    """
    return _Reader(content, schema).message(message, 0, len(content))


class _Reader:
    def __init__(self, content: bytes, schema: Schema) -> None:
        self.content, self.view, self.schema = content, memoryview(content), schema
        self.fields_left = MAX_FIELDS

    def message(self, name: str, at: int, end: int) -> Parsed:
        """The message between two positions. Messages cannot nest without end: the schema has no circle."""
        by_tag, content = self.schema.by_tag[name], self.content
        found: Parsed = {}
        while at < end:
            start, tag = at, content[at]
            if tag < 0x80:
                at += 1
            else:
                tag, at = self.varint(at, end)
            known = by_tag.get(tag)
            if known is None:
                self.refuse_tag(name, tag, start)
            self.fields_left -= 1
            if self.fields_left < 0:
                raise WireError(f"byte {start}: found more than {MAX_FIELDS} fields, expected fewer")
            field, packed = known
            if packed:
                values, at = self.packed(field.kind, at, end)
                found.setdefault(field.name, []).extend(values)
                continue
            value, at = self.value(field, tag, at, end)
            if field.repeated:
                found.setdefault(field.name, []).append(value)
            elif field.kind is Kind.REFUSED:
                found.setdefault(REFUSED_FIELD, field.name)
            elif field.name in found:
                raise WireError(f"byte {start}: found {field.name} twice, expected it once")
            else:
                found[field.name] = value
        for names in self.schema.oneofs[name]:
            if len(names & found.keys()) > 1:
                raise WireError(f"byte {end}: found {' and '.join(sorted(names & found.keys()))}, expected one")
        for key in self.schema.fixed[name]:
            if key in found:
                found[key] = b"".join(found[key])
        return found

    def value(self, field: Field, tag: int, at: int, end: int) -> tuple[Any, int]:
        """One value, and where the next field starts."""
        wire_type, kind = tag & 7, field.kind
        if wire_type == LENGTH:
            size = self.content[at] if at < end else 0x80
            if size < 0x80:
                at += 1
            else:
                size, at = self.varint(at, end)
            after = at + size
            if after > end:
                raise WireError(f"byte {at}: cut short; found a length of {size}, expected at most {end - at}")
            if kind is Kind.TEXT:
                return self.text(field, at, after), after
            if kind is Kind.MESSAGE:
                return self.message(field.message, at, after), after
            return self.view[at:after], after
        if wire_type == VARINT:
            number, after = self.varint(at, end)
            return _signed(kind, number, at), after
        after = at + (4 if wire_type == FIXED32 else 8)
        if after > end:
            raise WireError(f"byte {at}: cut short")
        return self.view[at:after], after

    def text(self, field: Field, at: int, end: int) -> str:
        try:
            return str(self.content[at:end], "utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"byte {at + error.start}: found no UTF-8 in {field.name}, expected text") from error

    def packed(self, kind: Kind, at: int, end: int) -> tuple[list[Any], int]:
        """Numbers in one piece, and where the next field starts."""
        size, at = self.varint(at, end)
        after = at + size
        if after > end:
            raise WireError(f"byte {at}: cut short; found a length of {size}, expected at most {end - at}")
        width = _WIDTHS.get(kind)
        if width:
            if size % width:
                raise WireError(f"byte {at}: found {size} bytes of packed numbers, expected a multiple of {width}")
            return [self.view[at:after]], after
        values = []
        while at < after:
            number, then = self.varint(at, after)
            values.append(_signed(kind, number, at))
            at = then
        self.fields_left -= len(values)
        return values, after

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A number below 2^64 in the fewest bytes, and where the next value starts."""
        content, start, value, shift = self.content, at, 0, 0
        while at < end and shift < 70:
            byte = content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise WireError(f"byte {start}: found a number in more bytes than it needs, expected the fewest")
                if value >> 64:
                    break
                return value, at
            shift += 7
        if shift < 70 and not value >> 64:
            raise WireError(f"byte {start}: cut short")
        raise WireError(f"byte {start}: found a number that overflows 64 bits")

    def refuse_tag(self, name: str, tag: int, at: int) -> NoReturn:
        """Raises what is wrong with a tag."""
        if tag >> 32:
            raise WireError(f"byte {at}: found the field tag {tag}, expected one of 32 bits")
        field = self.schema.messages[name].get(tag >> 3)
        if field is None:
            raise WireError(f"byte {at}: found field {tag >> 3} in {name}, expected a field of ONNX")
        raise WireError(
            f"byte {at}: found wire type {tag & 7} for {field.name}, expected {_WIRE_TYPES.get(field.kind, LENGTH)}"
        )


def _signed(kind: Kind, number: int, at: int) -> int:
    """The value of a varint of a kind; negative numbers are written as 64-bit two's complement."""
    if number < 1 << 31 or kind is Kind.UINT64:
        return number
    value = number - (1 << 64) if number >> 63 else number
    if kind is Kind.INT32 and not -(1 << 31) <= value < 1 << 31:
        raise WireError(f"byte {at}: found the number {value}, expected one of 32 bits")
    return value


def encode(parsed: Parsed, message: str, schema: Schema) -> bytes:
    """Return the bytes of a message in canonical form: fields by number, numbers in the fewest bytes.

    Args:
        parsed: what :func:`decode` returned, without a field that is refused.
        message: its name in the schema.
        schema: all messages.
    """
    if REFUSED_FIELD in parsed:
        raise WireError(f"found {parsed[REFUSED_FIELD]} in {message}, expected none")
    parts: list[bytes | memoryview] = []
    for field, tag in schema.written[message]:
        value = parsed.get(field.name)
        if value is None:
            continue
        kind, inner = field.kind, field.message
        if kind in _WIDTHS:
            parts += _fixed(tag, field, value)
        elif field.packed:
            joined = b"".join(map(varint, value))
            parts += (tag, varint(len(joined)), joined) if joined else ()
        else:
            for one in value if field.repeated else (value,):
                if kind is Kind.TEXT:
                    content: bytes | memoryview = one.encode()
                elif kind is Kind.MESSAGE:
                    content = encode(one, inner, schema)
                elif kind is Kind.BYTES:
                    content = one
                else:
                    parts += (tag, varint(one))
                    continue
                parts += (tag, varint(len(content)), content)
    return b"".join(parts)


def _fixed(tag: bytes, field: Field, values: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Numbers of fixed width; repeated ones are without a gap between them in ``values``."""
    if not field.repeated:
        return tag, values
    if field.packed:
        return (tag, varint(len(values)), values) if values else ()
    width = _WIDTHS[field.kind]
    return tuple(tag + values[i : i + width] for i in range(0, len(values), width))


def varint(value: int) -> bytes:
    """Return a number as it is written, in the fewest bytes; negative ones as 64-bit two's complement."""
    return _SMALL[value] if 0 <= value < len(_SMALL) else _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL: Final = [_varint(value) for value in range(1 << 12)]
