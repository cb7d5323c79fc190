"""What the second implementation meters: two hours ago, some ten minutes, a reboot, a change of keys, the end.

Pure: segments as headers and blocks, by what time it is and which boots the kernel had.
"""

from columns import (
    AT_BIRTH, AT_FIRST_SIGHT, CLOSES, EXACT, NOT_OPENED, Block, Run, Shape, Span, interpolated, unmeasured,
)  # fmt: skip

MINUTE = 60_000_000
QUARTER_HOUR = 15 * MINUTE
CPU, MEMORY, PEAK, RX = 1, 2, 3, 9
APP = {"unit": "däemon.service", "a": ""}


def begin(now):
    """The quarter-hour in which the story begins."""
    return (now // QUARTER_HOUR - 8) * QUARTER_HOUR


def exact(*minutes):
    """Spans from a minute to the next, each measured a little less than it was long."""
    return tuple(Span((b - a) * MINUTE, EXACT, (b - a) * MINUTE - 7) for a, b in zip(minutes, minutes[1:]))


def closed(why):
    return 1 + CLOSES.index(why)


class Story:
    def __init__(self, now, boots):
        self.at, self.boots = begin(now), boots

    def minute(self, minute):
        return self.at + minute * MINUTE

    def shape(self, start, spans):
        return Shape(self.minute(start), tuple(spans))

    def segments(self):
        """Header fields and blocks of each segment, in order."""
        before, after = self.boots
        yield self._header(0, 10, before, gaps=[(0, 2, "new_stream")]), self._opening()
        yield self._header(10, 32, before), self._until_reboot()
        yield self._header(32, 40, after, gaps=[(32, 35, "node_down")]), self._after_reboot()
        yield self._header(40, 44, after), self._quiet(40, 44, NOT_OPENED, "none")
        yield self._header(44, 45, after), self._quiet(44, 45, NOT_OPENED, "stream_end")

    def _header(self, start, end, boot, gaps=()):
        named = [{"from": self.minute(a), "to": self.minute(b), "cause": (cause,)} for a, b, cause in gaps]
        through = {"from": self.minute(start), "covered_through": self.minute(end)}
        return through | {"boot": boot, "config": bytes([0xC0]) * 32, "gaps": named}

    def _opening(self):
        both = self.shape(2, exact(2, 4, 10))
        born = self.shape(4, exact(4, 10))
        sight = {"opened": AT_FIRST_SIGHT, "raw": 1 << 70}
        host = [
            Run(1, CPU, both, [900, 10_000_003], **sight),
            Run(2, MEMORY, both, [2**40, 2**41 + 1], **sight),
            Run(3, PEAK, both, [5000, 4000], **sight),
            Run(4, RX, both, [0, 2**33], **sight),
        ]
        app = [Run(5, CPU, born, [10_000_000], opened=AT_BIRTH), Run(6, PEAK, born, [4000], opened=AT_BIRTH)]
        other = [Run(7, CPU, both, [900, 3], **sight)]
        return [Block("host", host), Block("cgroup/äpp", app, APP), Block("host/other", other)]

    def _until_reboot(self):
        reboot = {"closed": closed("reboot")}
        whole = self.shape(10, exact(10, 15, 30, 32))
        unknown = Span(5 * MINUTE, unmeasured("suspended"), None)
        slept = self.shape(10, (*exact(10, 15), unknown, *exact(20, 30, 32)))
        # Crosses two quarter-hours: 1,000,001 over 22 minutes, of which 5, 15 and 2 fall into each.
        down = self.shape(10, [Span(22 * MINUTE, interpolated("agent_down"), 21 * MINUTE)])
        host = [
            Run(1, CPU, down, [1_000_004], opening=10_000_903, **reboot),
            Run(2, MEMORY, slept, [11, 0, 13, 17], opening=2**40 + 2**41 + 1, **reboot),
            Run(3, PEAK, down, [9000], opening=5000, **reboot),
            Run(4, RX, whole, [2**52, 0, 1], opening=2**33, **reboot),
        ]
        app = [
            Run(5, CPU, down, [1_000_001], opening=10_000_000, **reboot),
            Run(6, PEAK, whole, [1, 2, 3], opening=4000, **reboot),
        ]
        other = [Run(7, CPU, down, [3], opening=903, **reboot)]
        return [Block("cgroup/äpp", app, APP), Block("host/other", other), Block("host", host)]

    def _after_reboot(self):
        return self._quiet(35, 40, AT_BIRTH, "none")

    def _quiet(self, start, end, opened, close):
        """The same few registers, in every segment up to the last."""
        shape = self.shape(start, exact(start, end))
        life = {"opened": opened, "closed": 0 if close == "none" else closed(close)}
        opening = 0 if opened else (start - 35) * 1_000
        used = (end - start) * 1_000
        host = [Run(8, CPU, shape, [used], opening=opening, **life)]
        other = [Run(9, CPU, shape, [used], opening=opening, **life)]
        return [Block("host", host), Block("host/other", other)]
