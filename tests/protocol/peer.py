"""Enrols at a real reconciler, seals and ships; prints as JSON what must be seen there.

Usage: python peer.py JOIN_TOKEN NAME FOLDER

The name is the seed of all that is drawn: no node that is to keep a secret may draw like this.
"""

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time

import keys
import node as nodes
import sealed
import story
import wire
from encoding import need
from link import REFUSED
from sealed import Segment
from usage import Usage

SOFTWARE = "second-implementation 1"


class Sealer:
    """Seals one stream of a node, and counts for itself what it sealed."""

    def __init__(self, node, now, draw):
        self.node, self.draw, self.stream = node, draw, draw.randbytes(16)
        self.usage, self.refused = Usage(), []
        self.segments, self.headers, self.blocks = [], [], []
        boots = [draw.randbytes(16), draw.randbytes(16)]
        new_key = keys.secret(draw.randbytes(32))
        self.keys = [node.key] * 4 + [new_key]
        purposes = [("readings",)] * 3 + [("rotate_key", keys.public(new_key)), ("final",)]
        for purpose, (header, blocks) in zip(purposes, story.Story(now, boots).segments(), strict=True):
            self._seal(header | {"purpose": purpose}, blocks)

    def _seal(self, header, blocks):
        seq = len(self.segments)
        previous = ("follows", self.segments[-1].hash) if seq else ("opens", {"after": None})
        header |= {"node": self.node.id, "stream": self.stream, "seq": seq, "previous": previous}
        self.headers.append(header)
        self.blocks.append(blocks)
        segment = Segment(self.seal(seq))
        self.usage.add(segment, keys.public(self.keys[seq]))
        self.segments.append(segment)

    def seal(self, seq, key=None, header=(), **how):
        """Segment `seq` under a fresh seed, or one that differs from it."""
        header = self.headers[seq] | dict(header)
        return sealed.seal(key or self.keys[seq], header, self.blocks[seq], self.draw.randbytes(32), **how)

    def wide(self, seq):
        """The numbers of segment `seq`, by their order in it, that can be spelled longer than needed."""
        length = len(self.segments[seq].bytes)
        return itertools.takewhile(lambda at: len(self.seal(seq, widen=at)) > length, itertools.count())

    def position(self, count):
        return {"next": count, "head": self.segments[count - 1].hash if count else None}

    def bad_ones(self, seq):
        """Frames that may not be taken for segment `seq`: what they are, the reason, the bytes."""
        good = self.segments[seq].bytes
        flipped = bytearray(good)
        flipped[-100] ^= 0x10
        stranger, other, again = keys.secret(self.draw.randbytes(32)), bytes(16), self.blocks[seq][-1]
        for name, reason, segment in [
            ("a flipped bit", "signature", bytes(flipped)),
            ("another key", "signature", self.seal(seq, key=stranger)),
            ("another node's", "wrong_node", self.seal(seq, header={"node": other})),
            ("another stream's", "wrong_node", self.seal(seq, header={"stream": other})),
            ("another predecessor", "chain", self.seal(seq, header={"previous": ("follows", bytes(32))})),
            ("one too early", "ahead", self.segments[seq + 1].bytes),
            ("another format", "newer_format", b"\x02" + good[1:]),
            ("a byte behind it", "format", good + b"\0"),
            ("blocks out of order", "format", self.seal(seq, reorder=lambda blocks: blocks[::-1])),
            ("a workload twice", "format", self.seal(seq, reorder=lambda blocks: [*blocks, again])),
            *((f"number {at} longer than needed", "format", self.seal(seq, widen=at)) for at in self.wide(seq)),
        ]:
            yield name, reason, wire.frame(wire.SEGMENT_FRAME, segment)
        yield "a frame too large", "oversized", bytes([wire.SEGMENT_FRAME]) + ((8 << 20) + 1).to_bytes(4, "big")
        yield "no kind of frame", "frame", bytes([200, 0, 0, 0, 0])
        yield "a message out of turn", "message", wire.frame(wire.HELLO_FRAME, hello(self, seq))


def hello(sealer, count):
    """Of an agent that has sealed `count` segments."""
    return {
        "versions": nodes.VERSIONS, "software": SOFTWARE, "node": sealer.node.id, "stream": sealer.stream,
        "oldest": 0, "position": sealer.position(count),
    }  # fmt: skip


@contextlib.asynccontextmanager
async def session(sealer, sealed_count, admitted_count):
    """A greeted connection; the reconciler must say that it has so many segments of the stream."""
    async with sealer.node.connect() as link:
        link.send(wire.HELLO_FRAME, hello(sealer, sealed_count))
        welcome = await link.expect(wire.WELCOME_FRAME)
        need(welcome["version"] == 1, f"version {welcome['version']} is spoken")
        need(welcome["position"] == sealer.position(admitted_count), f"another position: {welcome['position']}")
        sealer.node.trust_receipt_keys(welcome["receipt_keys"])
        yield link


async def receipt(link, sealer):
    """The next frame, a receipt of the stream that somebody whom the CA certified signed."""
    said = sealer.node.read_receipt(await link.expect(wire.RECEIPT_FRAME))
    need((said["node"], said["stream"]) == (sealer.node.id, sealer.stream), "a receipt of another stream")
    need(said["hash"] == sealer.segments[said["seq"]].hash, "the receipt names another hash")
    need(said["quarantined"] == [], f"not counted: {said['quarantined']}")
    return said["since"], said["seq"]


async def known(link, sealer, seq):
    """The word that everything up to `seq` is held, and nothing about what of it is counted."""
    said = await receipt(link, sealer)
    need(said == (seq + 1, seq), f"a receipt {said}, where one for what is held up to {seq} was expected")


async def counted(link, sealer, first, last):
    """Waits for the word that everything from `first` to `last` is counted, in one receipt or in several."""
    while first <= last:
        since, seq = await receipt(link, sealer)
        need(since == first <= seq <= last, f"a receipt from {since} to {seq}, where {first} to {last} was expected")
        first = seq + 1


async def ship(sealer):
    """The whole story, over several connections, some of it twice."""
    segments = [segment.bytes for segment in sealer.segments]
    async with session(sealer, 0, 0) as link:
        link.send(wire.SEGMENT_FRAME, segments[0])
        await counted(link, sealer, 0, 0)
    async with session(sealer, 2, 1) as link:
        await known(link, sealer, 0)
        for again in (0, 1, 1):
            link.send(wire.SEGMENT_FRAME, segments[again])
        await counted(link, sealer, 1, 1)
    await bad_ones(sealer)
    async with session(sealer, 5, 2) as link:
        await known(link, sealer, 1)
        for segment in segments[2:]:
            link.send(wire.SEGMENT_FRAME, segment)
        await counted(link, sealer, 2, 4)
    async with session(sealer, 5, 5) as link:
        await known(link, sealer, 4)


async def bad_ones(sealer):
    """What must be refused in place of segment 2, each on a connection of its own, and harms nothing."""
    for name, reason, frame in sealer.bad_ones(2):
        async with session(sealer, 2, 2) as link:
            await known(link, sealer, 1)
            link.send_bytes(frame)
            refused = await link.expect(wire.REFUSED_FRAME)
            await link.expect_close(REFUSED)
        need(refused["reason"][0] == reason, f"{name}: {refused}")
        print(f"{name}: {reason}: {refused['detail']}", file=sys.stderr)
        sealer.refused.append({"what": name, "reason": reason, "seq": refused["seq"]})


async def main(token, name, folder):
    draw = random.Random(name)
    node = await nodes.enroll(token, name, folder, draw)
    sealer = Sealer(node, time.time_ns() // 1000, draw)
    await ship(sealer)
    print(json.dumps({"node": node.id.hex(), "usage": sealer.usage.said(), "refused": sealer.refused}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
