"""Section 1: how structures become bytes, and the one spelling that a value has.

Owns the types and their canonical form; no structure of the protocol is here.
"""

MAX_TIME = 253402300799999999
WIDTHS = {0xFB: 2, 0xFC: 4, 0xFD: 8, 0xFE: 16}


class Malformed(ValueError):
    """These bytes are not what the protocol calls for."""


def need(holds, what):
    if not holds:
        raise Malformed(what)


class Reader:
    """Bytes read from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "the bytes end too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def end(self):
        need(self.at == len(self.data), "bytes follow the value")

    def varint(self):
        first = self.take(1)[0]
        if first <= 250:
            return first
        need(first in WIDTHS, f"{first:#x} begins no varint")
        return int.from_bytes(self.take(WIDTHS[first]), "little")

    def leb(self):
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            need(value < 1 << 128, "more than 128 bits")
            if byte < 0x80:
                need(byte or shift == 7, "a number is longer than needed")
                return value

    def zigzag(self):
        value = self.leb()
        need(value < 1 << 64, "more than 64 bits")
        return value >> 1 ^ -(value & 1)


class Writer:
    """Bytes written at the end.

    `widen` spells the number of that index, of all that are written, longer than needed: what a reader must
    refuse. `numbers` counts them.
    """

    def __init__(self, widen=None):
        self.parts, self.numbers, self.widen = [], 0, widen

    def put(self, data):
        self.parts.append(data)

    def bytes(self):
        return b"".join(self.parts)

    def part(self, write):
        """What `write` puts, alone, its numbers counted here."""
        kept, self.parts = self.parts, []
        write(self)
        inner, self.parts = self.bytes(), kept
        return inner

    def _wide(self):
        self.numbers += 1
        return self.widen == self.numbers - 1

    def varint(self, value):
        tags = [tag for tag, width in WIDTHS.items() if value < 1 << 8 * width]
        wide = self._wide()
        if value <= 250 and not wide:
            return self.put(bytes([value]))
        tag = tags[1 if wide and value > 250 else 0]
        self.put(bytes([tag]) + value.to_bytes(WIDTHS[tag], "little"))

    def leb(self, value):
        need(0 <= value < 1 << 128, f"{value} has no spelling")
        out = []
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        self.put(bytes([*out, value | 0x80, 0]) if self._wide() else bytes([*out, value]))

    def zigzag(self, value):
        self.leb(value << 1 if value >= 0 else (-value << 1) - 1)


class Byte:
    def read(self, reader):
        return reader.take(1)[0]

    def write(self, writer, value):
        writer.put(bytes([value]))


class Number:
    def __init__(self, below):
        self.below = below

    def read(self, reader):
        value = reader.varint()
        need(value < self.below, f"{value} is too large")
        return value

    def write(self, writer, value):
        need(0 <= value < self.below, f"{value} has no spelling")
        writer.varint(value)


class Fixed:
    def __init__(self, count):
        self.count = count

    def read(self, reader):
        return reader.take(self.count)

    def write(self, writer, value):
        need(len(value) == self.count, f"{self.count} bytes are needed")
        writer.put(value)


class ByteString:
    def read(self, reader):
        return reader.take(reader.varint())

    def write(self, writer, value):
        writer.varint(len(value))
        writer.put(value)


class Text(ByteString):
    def read(self, reader):
        try:
            return super().read(reader).decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"no UTF-8: {error}") from None

    def write(self, writer, value):
        super().write(writer, value.encode())


class Seq:
    def __init__(self, item):
        self.item = item

    def read(self, reader):
        count = reader.varint()
        need(count <= len(reader.data) - reader.at, "more items than bytes are left")
        return [self.item.read(reader) for _ in range(count)]

    def write(self, writer, value):
        writer.varint(len(value))
        for item in value:
            self.item.write(writer, item)


class Option:
    def __init__(self, item):
        self.item = item

    def read(self, reader):
        tag = reader.take(1)[0]
        need(tag < 2, f"{tag} is no option")
        return self.item.read(reader) if tag else None

    def write(self, writer, value):
        writer.put(bytes([value is not None]))
        if value is not None:
            self.item.write(writer, value)


class Struct:
    """Fields in their order; a value is a dictionary."""

    def __init__(self, **fields):
        self.fields = fields

    def read(self, reader):
        return {name: kind.read(reader) for name, kind in self.fields.items()}

    def write(self, writer, value):
        for name, kind in self.fields.items():
            kind.write(writer, value[name])


class Enum:
    """Variants from 0; a value is a tuple of the variant's name and, if it has one, its content."""

    def __init__(self, *variants):
        self.variants = [variant if isinstance(variant, tuple) else (variant, None) for variant in variants]
        self.names = [name for name, _ in self.variants]

    def read(self, reader):
        number = reader.varint()
        need(number < len(self.variants), f"no variant {number}")
        name, kind = self.variants[number]
        return (name, kind.read(reader)) if kind else (name,)

    def write(self, writer, value):
        number = self.names.index(value[0])
        writer.varint(number)
        if self.variants[number][1]:
            self.variants[number][1].write(writer, value[1])


U8, U16, U32, U64 = Byte(), Number(1 << 16), Number(1 << 32), Number(1 << 64)
TIME = Number(MAX_TIME + 1)
ID, HASH, KEY, SIGNATURE = Fixed(16), Fixed(32), Fixed(32), Fixed(64)
BYTES, TEXT = ByteString(), Text()


def encode(kind, value, widen=None):
    writer = Writer(widen)
    kind.write(writer, value)
    return writer.bytes()


def decode(kind, data):
    """The value whose one spelling `data` is."""
    reader = Reader(data)
    value = kind.read(reader)
    reader.end()
    need(encode(kind, value) == data, "not the canonical spelling")
    return value
