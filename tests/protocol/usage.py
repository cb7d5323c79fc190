"""What segments say was used: their meaning, checked (section 2), and sums by workload, meter and quarter-hour."""

from collections import Counter, defaultdict

from columns import EXACT, METERS, NOT_OPENED, is_unmeasured
from encoding import need

QUARTER_HOUR = 900_000_000
PEAK = "memory.peak"


class Usage:
    """Follows one stream from its first segment."""

    def __init__(self):
        self.open, self.highest, self.head = {}, -1, None
        self.quarters = defaultdict(Counter)

    def add(self, segment, key):
        """Counts the stream's next segment, which `key` signed: the key that signs the one after it."""
        segment.verify(key)
        self._chain(segment)
        opened = set()
        for block in segment.blocks:
            for run in block.runs:
                self._run(segment.header, block.workload, run, opened)
        need(not self.open.keys() - opened, f"open registers are missing: {self.open.keys() - opened}")
        if opened:
            self.highest = max(self.highest, *opened)
        purpose = segment.header["purpose"]
        need(purpose[0] != "final" or not self.open, "the last segment leaves registers open")
        self.head = segment
        return purpose[1] if purpose[0] == "rotate_key" else key

    def _chain(self, segment):
        header, head = segment.header, self.head
        if head is None:
            return need(header["previous"] == ("opens", {"after": None}), "the stream does not begin here")
        need(header["previous"] == ("follows", head.hash), "another segment came before")
        need(header["seq"] == head.header["seq"] + 1, "the number does not follow")
        need(header["from"] == head.header["covered_through"], "time does not follow")

    def _run(self, header, workload, run, seen):
        name = (workload, run.meter)
        need(run.register not in seen, f"register {run.register} has two runs")
        seen.add(run.register)
        if run.opened == NOT_OPENED:
            need(run.register in self.open, f"register {run.register} is not open")
            end, reading, before = self.open.pop(run.register)
            need(before == name, f"register {run.register} became another")
            need(run.shape.start == end, f"register {run.register} leaves a hole or overlaps")
            need(run.opening == reading, f"register {run.register} opens at another reading than it closed")
        else:
            need(run.register > self.highest, f"register {run.register} was used before")
        through = header["covered_through"]
        need(header["from"] <= run.shape.start and run.end <= through, "a run reaches out of its segment")
        if not run.closed:
            need(run.end == through, f"register {run.register} ends too early")
            self.open[run.register] = (run.end, run.closing, name)
        self._spans(workload, run)

    def _spans(self, workload, run):
        meter, start = METERS[run.meter], run.shape.start
        for span, quantity in zip(run.shape.spans, run.quantities, strict=True):
            end = start + span.length
            crosses = start // QUARTER_HOUR != (end - 1) // QUARTER_HOUR
            need(not (span.quality == EXACT and crosses), "an exact interval crosses a quarter-hour")
            for quarter, cell in cells(start, span, quantity, meter):
                add(self.quarters[workload, meter, quarter], cell, meter)
            start = end

    def rows(self, start, end):
        """Sums of the quarter-hours from `start` to `end`, by workload and meter."""
        sums = defaultdict(Counter)
        for (workload, meter, quarter), cell in self.quarters.items():
            if start <= quarter < end:
                add(sums[workload, meter], cell, meter)
        return [
            {
                "workload": workload, "meter": meter, "quantity": str(cell["quantity"]),
                "measured": cell["measured"], "interpolated": cell["interpolated"], "unmeasured": cell["unmeasured"],
            }
            for (workload, meter), cell in sorted(sums.items())
        ]  # fmt: skip

    def said(self):
        """Usage of all the time that was covered, and of each quarter-hour in it."""
        quarters = sorted({quarter for _, _, quarter in self.quarters})
        spans = [(quarters[0], quarters[-1] + QUARTER_HOUR)]
        spans += [(quarter, quarter + QUARTER_HOUR) for quarter in quarters]
        return [{"from": start, "to": end, "rows": self.rows(start, end)} for start, end in spans]


def add(cell, other, meter):
    peak = max(cell["quantity"], other["quantity"])
    cell.update(other)
    if meter == PEAK:
        cell["quantity"] = peak


def cells(start, span, quantity, meter):
    """An interval's share in each quarter-hour it lies in."""
    at, end = start, start + span.length
    kind = "unmeasured" if is_unmeasured(span.quality) else "interpolated" if span.quality != EXACT else "exact"
    while at < end:
        to = min((at // QUARTER_HOUR + 1) * QUARTER_HOUR, end)

        def share(whole, to=to, at=at):
            return whole * (to - start) // span.length - whole * (at - start) // span.length

        counted = share(quantity) if meter != PEAK else quantity if to == end else 0
        yield at // QUARTER_HOUR * QUARTER_HOUR, {
            "quantity": counted, "measured": share(span.measured or 0), kind: to - at,
        }  # fmt: skip
        at = to
