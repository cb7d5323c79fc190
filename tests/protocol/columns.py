"""Section 2, Block: one workload's runs, and the columns they are packed into.

A run is what one register did in one segment: opened, spans, their quantities, closed.
"""

from dataclasses import dataclass, field

from encoding import BYTES, TEXT, Reader, Seq, Struct, Writer, decode, need

COLUMNS = ["shapes", "registers", "meters", "lives", "shape_of", "openings", "quantities"]
BLOCK = Struct(
    workload=TEXT, labels=Seq(Struct(key=TEXT, value=TEXT)), **{column: BYTES for column in COLUMNS}
)
METERS = {
    1: "cpu.time", 2: "memory.usage", 3: "memory.peak", 4: "disk.read", 5: "disk.write", 6: "disk.read_ops",
    7: "disk.write_ops", 8: "storage.used", 9: "network.rx", 10: "network.tx", 11: "uptime", 12: "cpu.steal",
    13: "process.count", 14: "app.count", 15: "app.bytes", 16: "app.seconds",
}  # fmt: skip
CAUSES = [
    "agent_down", "node_down", "suspended", "source_unreadable", "clock_step", "lost_before_seal", "new_stream",
    "thinned",
]  # fmt: skip
CLOSES = ["vanished", "reset", "reboot", "deselected", "stream_end"]
NOT_OPENED, AT_BIRTH, AT_FIRST_SIGHT = range(3)
EXACT = 0


def interpolated(cause):
    return 1 + 2 * CAUSES.index(cause)


def unmeasured(cause):
    return 2 + 2 * CAUSES.index(cause)


def is_unmeasured(quality):
    return quality != EXACT and quality % 2 == 0


@dataclass(frozen=True)
class Span:
    length: int
    quality: int
    measured: int | None


@dataclass(frozen=True)
class Shape:
    start: int
    spans: tuple


@dataclass
class Run:
    register: int
    meter: int
    shape: Shape
    quantities: list
    opened: int = NOT_OPENED
    closed: int = 0
    opening: int = 0
    raw: int | None = None
    version: int = 1

    @property
    def end(self):
        return self.shape.start + sum(span.length for span in self.shape.spans)

    @property
    def closing(self):
        if METERS[self.meter] == "memory.peak":
            return max([self.opening, *self.quantities])
        return self.opening + sum(self.quantities)


@dataclass
class Block:
    workload: str
    runs: list
    labels: dict = field(default_factory=dict)


def put(writer, block, origin):
    """Writes a block of a segment that begins at `origin`."""
    shapes = list(dict.fromkeys(run.shape for run in block.runs))
    packed = {
        "shapes": lambda w: _put_shapes(w, shapes, origin),
        "registers": lambda w: _put_registers(w, [run.register for run in block.runs]),
        "meters": lambda w: [w.leb(run.meter << 3 | run.version) for run in block.runs],
        "lives": lambda w: _put_lengths(w, [run.opened + 3 * run.closed for run in block.runs]),
        "shape_of": lambda w: _put_lengths(w, [shapes.index(run.shape) for run in block.runs]),
        "openings": lambda w: [_put_opening(w, run) for run in block.runs],
        "quantities": lambda w: [w.leb(quantity) for run in block.runs for quantity in run.quantities],
    }
    value = {column: writer.part(write) for column, write in packed.items()}
    value |= {"workload": block.workload}
    value |= {"labels": [{"key": key, "value": text} for key, text in sorted(block.labels.items())]}
    BLOCK.write(writer, value)


def pack(block, origin):
    writer = Writer()
    put(writer, block, origin)
    return writer.bytes()


def unpack(data, origin):
    """The block that is packed so, and in no other way."""
    value = decode(BLOCK, data)
    labels = {label["key"]: label["value"] for label in value["labels"]}
    block = Block(value["workload"], _runs({c: Reader(value[c]) for c in COLUMNS}, origin), labels)
    need(is_workload(block.workload), f"{block.workload!r} names no workload")
    need(pack(block, origin) == data, "not the canonical spelling of these columns")
    return block


def is_workload(name):
    control = any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name)
    return 1 <= len(name.encode()) <= 512 and not control and name == name.strip("/")


def _runs(columns, origin):
    shapes = _shapes(columns["shapes"], origin)
    registers = _registers(columns["registers"])
    lives = _lengths(columns["lives"], len(registers))
    shape_of = _lengths(columns["shape_of"], len(registers))
    runs = []
    for register, life, number in zip(registers, lives, shape_of, strict=True):
        need(number < len(shapes), f"there is no shape {number}")
        need(life < 3 * (1 + len(CLOSES)), f"there is no life {life}")
        runs.append(_run(columns, register, life, shapes[number]))
    for column in columns.values():
        column.end()
    return runs


def _run(columns, register, life, shape):
    meter = columns["meters"].leb()
    need(meter >> 3 in METERS and meter & 7 == 1, f"there is no meter {meter >> 3} in version {meter & 7}")
    opened, closed = life % 3, life // 3
    opening = columns["openings"].leb()
    raw = columns["openings"].leb() if opened == AT_FIRST_SIGHT else None
    need(opened == NOT_OPENED or opening == 0, f"register {register} opens at another reading than 0")
    quantities = [columns["quantities"].leb() for _ in shape.spans]
    for span, quantity in zip(shape.spans, quantities, strict=True):
        need(not (is_unmeasured(span.quality) and quantity), "an unmeasured span has a quantity")
    return Run(register, meter >> 3, shape, quantities, opened, closed, opening, raw, meter & 7)


def _shapes(column, origin):
    return [Shape(origin + column.leb(), tuple(_spans(column))) for _ in range(_count(column))]


def _spans(column):
    for _ in range(_count(column)):
        length, quality = column.leb(), column.leb()
        need(length > 0, "a span without length")
        need(quality <= 2 * len(CAUSES), f"there is no quality {quality}")
        measured = None if is_unmeasured(quality) else length + column.zigzag()
        need(measured is None or measured >= 0, "less than nothing was measured")
        yield Span(length, quality, measured)


def _put_shapes(writer, shapes, origin):
    writer.leb(len(shapes))
    for shape in shapes:
        writer.leb(shape.start - origin)
        writer.leb(len(shape.spans))
        for span in shape.spans:
            writer.leb(span.length)
            writer.leb(span.quality)
            if span.measured is not None:
                writer.zigzag(span.measured - span.length)


def _registers(column):
    count, register, registers = _count(column), 0, []
    for index in range(count):
        step = column.leb()
        need(index == 0 or step > 0, "registers do not rise")
        register += step
        need(register < 1 << 64, "a register's number is too large")
        registers.append(register)
    return registers


def _put_registers(writer, registers):
    writer.leb(len(registers))
    for before, register in zip([0, *registers], registers, strict=False):
        writer.leb(register - before)


def _lengths(column, count):
    values = []
    while len(values) < count:
        value, times = column.leb(), column.leb()
        need(0 < times <= count - len(values), "a run-length that does not fit")
        values += [value] * times
    return values


def _put_lengths(writer, values):
    at = 0
    while at < len(values):
        times = next((i for i, v in enumerate(values[at:]) if v != values[at]), len(values) - at)
        writer.leb(values[at])
        writer.leb(times)
        at += times


def _put_opening(writer, run):
    writer.leb(run.opening)
    if run.opened == AT_FIRST_SIGHT:
        writer.leb(run.raw)


def _count(column):
    count = column.leb()
    need(count <= len(column.data) - column.at, "more items than bytes are left")
    return count
