"""Reads every golden file, makes it again byte for byte, and refuses what is almost one.

Usage: python golden.py FOLDER
"""

import pathlib
import sys

import keys
import sealed
import wire
from encoding import Malformed, decode, encode, need
from sealed import PROOF, Segment

NODE, CA, RECEIPTS, NEXT_CA = (keys.secret(bytes([byte]) * 32) for byte in (0x11, 0x22, 0x33, 0x55))
FRAMES = [
    "hello", "welcome", "segment", "receipt", "refused", "enroll", "enrolled", "renew", "renewed", "notice", "in-force",
    "closing",
]  # fmt: skip


def refused(what, read, data):
    try:
        read(data)
    except Malformed:
        return
    raise AssertionError(f"{what} was read")


def every_widening(what, write, read):
    """Every number of a value, spelled longer than needed, one at a time: how many there were."""
    plain = write(None)
    count = 0
    while (wide := write(count)) != plain:
        refused(f"{what}, its number {count} longer than needed,", read, wide)
        count += 1
    need(count, f"{what} has no number")
    return count


def strict(what, kind, data):
    """The value of a plain structure; the same bytes made again; every damaged spelling refused."""
    value = decode(kind, data)
    need(encode(kind, value) == data, f"{what} is made again otherwise")
    every_widening(what, lambda widen: encode(kind, value, widen), lambda data: decode(kind, data))
    refused(f"{what} with a byte behind it", lambda data: decode(kind, data), data + b"\0")
    for end in range(len(data)):
        refused(f"{what} cut at {end}", lambda data: decode(kind, data), data[:end])
    return value


def reseal(segment, **how):
    return sealed.seal(NODE, segment.header, segment.blocks, segment.seed, **how)


def every_flip(data):
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(flipped)


def read_verified(data):
    Segment(data).verify(keys.public(NODE))


def a_segment(data):
    segment = Segment(data)
    segment.verify(keys.public(NODE))
    need(reseal(segment) == data, "the segment is made again otherwise")
    every_widening("the segment", lambda widen: reseal(segment, widen=widen), Segment)
    refused("the segment with a byte behind it", Segment, data + b"\0")
    for bit, flipped in every_flip(data):
        refused(f"the segment with bit {bit} flipped", read_verified, flipped)
    return segment


def segments(files):
    first, second = a_segment(files["segment-1"]), a_segment(files["segment-1-rotation"])
    need(first.header["previous"][0] == "opens", "the first segment opens its stream")
    need(second.header["previous"] == ("follows", first.hash), "the second follows the first")
    need(second.header["from"] == first.header["covered_through"], "the second begins where the first ends")
    need(second.header["purpose"][0] == "rotate_key", "the second rotates the key")
    refused("a segment in another order", Segment, reseal(first, reorder=lambda blocks: blocks[::-1]))
    refused("a workload twice", Segment, reseal(first, reorder=lambda blocks: [blocks[0], *blocks]))
    return first, second


def proofs(data, first):
    strict("the proof", PROOF, data)
    header, block = sealed.verify_proof(data, keys.public(NODE))
    index = [block.workload for block in first.blocks].index(block.workload)
    need(encode(PROOF, first.prove(index)) == data, "the proof is made again otherwise")
    need(header == first.header and block == first.blocks[index], "the proof shows what the segment says")
    need(first.seed not in data, "the seed is never in a proof")
    for other in range(len(first.blocks)):
        sealed.verify_proof(encode(PROOF, first.prove(other)), keys.public(NODE))
    for bit, flipped in every_flip(data):
        refused(f"the proof with bit {bit} flipped", lambda data: sealed.verify_proof(data, keys.public(NODE)), flipped)


def trees():
    """Paths of every leaf in trees of every shape."""
    for count in range(1, 18):
        leaves = [bytes([index]) * 32 for index in range(count)]
        top = sealed.root(leaves)
        for index in range(count):
            siblings = sealed.path(leaves, index)
            need(sealed.climb(leaves[index], index, count, siblings) == top, "a path leads to the root")
            refused("a longer path", lambda path: sealed.climb(leaves[index], index, count, path), [*siblings, top])


def statements(files, second):
    domains = {"receipt": (wire.RECEIPT, RECEIPTS), "enrolment-record": (wire.ENROLMENT_RECORD, CA)}
    domains |= {"receipt-key": (wire.RECEIPT_KEY, CA), "authority-succession": (wire.SUCCESSION, CA)}
    domains |= {"authority-retirement": (wire.RETIREMENT, NEXT_CA)}
    said = {}
    for name, (kind, key) in domains.items():
        signed = strict(name, wire.SIGNED, files[name])
        said[name] = wire.statement(kind, signed, keys.public(key))
        strict(f"what {name} says", kind, signed["bytes"])
        again = {"bytes": signed["bytes"], "signature": keys.sign(key, wire.DOMAINS[kind], signed["bytes"])}
        need(again == signed, f"{name} is signed again otherwise")
        for other in set(wire.DOMAINS) - {kind}:
            refused(f"{name} as another statement", lambda s: wire.statement(other, s, keys.public(key)), signed)
    receipt = said["receipt"]
    need((receipt["seq"], receipt["hash"]) == (1, second.hash), "the receipt is for the second segment")
    need(said["enrolment-record"]["signing_key"] == keys.public(NODE), "the record names the node's key")
    need(said["receipt-key"]["key"] == keys.public(RECEIPTS), "the certificate names the receipt key")


def frames(files):
    for number, name in enumerate(FRAMES, 1):
        data = files[f"frame-{name}"]
        kind, message = wire.whole_frame(data)
        need(kind == number, f"{name} is of kind {kind}")
        need(wire.frame(kind, message) == data, f"the {name} frame is made again otherwise")
        if kind != wire.SEGMENT_FRAME:
            strict(name, wire.FRAMES[kind][0], data[5:])
        refused("a frame without its end", wire.whole_frame, data[:-1])
        refused("a frame with more behind it", wire.whole_frame, data + b"\0")
        limit = wire.FRAMES[kind][1]
        need(wire.take_frame(bytes([kind]) + limit.to_bytes(4, "big")) is None, "a frame of the limit may come")
        refused("an oversized frame", wire.take_frame, bytes([kind]) + (limit + 1).to_bytes(4, "big"))
    for kind in (0, len(FRAMES) + 1, 255):
        refused(f"a frame of kind {kind}", wire.take_frame, bytes([kind, 0, 0, 0, 0]))
    embedded(files)


def embedded(files):
    """What frames carry is what stands in files of its own."""
    read = {name: wire.whole_frame(files[f"frame-{name}"])[1] for name in ("segment", "receipt", "enroll", "enrolled")}
    need(read["segment"] == files["segment-1-rotation"], "the frame carries the second segment")
    need(encode(wire.SIGNED, read["receipt"]) == files["receipt"], "the frame carries the receipt")
    enroll, enrolled = read["enroll"], read["enrolled"]
    proven = enroll["token_id"] + enroll["tls_request"]
    keys.verify(enroll["signing_key"], wire.POSSESSION, proven, enroll["proof"])
    need(encode(wire.SIGNED, enrolled["record"]) == files["enrolment-record"], "the frame carries the record")
    need(encode(wire.SIGNED, enrolled["receipt_keys"][0]) == files["receipt-key"], "and the receipt key")
    for name in ("renewed", "notice"):
        trust = wire.whole_frame(files[f"frame-{name}"])[1]["trust"]
        need(encode(wire.SIGNED, trust["successions"][0]) == files["authority-succession"], "and the succession")
        need(encode(wire.SIGNED, trust["retirements"][0]) == files["authority-retirement"], "and the retirement")


def token(data):
    text = data.decode()
    need(wire.write_token(wire.read_token(text)) == text, "the token is made again otherwise")
    for wrong in (text + "A", text + "=", text[:-1], text.replace("join-1", "join-2")):
        refused("a damaged token", wire.read_token, wrong)


def weak_keys():
    """What lenient verifiers take: a key of small order, under which one signature fits many messages."""
    neutral = (1).to_bytes(32, "little")
    for y in (1, 0, keys.P - 1, keys.P + 1):
        key = y.to_bytes(32, "little")
        refused("a weak key", lambda key: keys.verify(key, sealed.DOMAIN, b"", neutral + bytes(32)), key)


def main(folder):
    paths = sorted(pathlib.Path(folder).glob("*.hex"))
    files = {path.stem: bytes.fromhex(path.read_text()) for path in paths}
    read = {"segment-1", "segment-1-rotation", "block-proof-1", "join-token"}
    read |= {"receipt", "enrolment-record", "receipt-key", "authority-succession", "authority-retirement"}
    read |= {f"frame-{name}" for name in FRAMES}
    need(files.keys() == read, f"other golden files than are read here: {sorted(files.keys() ^ read)}")
    first, second = segments(files)
    proofs(files["block-proof-1"], first)
    trees()
    statements(files, second)
    frames(files)
    token(files["join-token"])
    weak_keys()
    print(f"{len(files)} golden files")


if __name__ == "__main__":
    main(sys.argv[1])
