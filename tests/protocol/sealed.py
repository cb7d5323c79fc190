"""Section 2: the header, the tree over header and blocks, the signature, the chain, the proof of one block."""

from blake3 import blake3

import columns
import keys
from encoding import (
    BYTES, HASH, ID, KEY, SIGNATURE, TIME, U16, U32, U64, Enum, Option, Seq, Struct, Writer, decode, need,
)  # fmt: skip

DOMAIN = "tallystick/1 segment"
LIMIT = 8 << 20
OPENS = Struct(after=Option(Struct(stream=ID, seq=U64, hash=HASH)))
GAP = Struct(**{"from": TIME, "to": TIME, "cause": Enum(*columns.CAUSES)})
HEADER = Struct(
    node=ID, stream=ID, seq=U64, previous=Enum(("opens", OPENS), ("follows", HASH)),
    **{"from": TIME}, covered_through=TIME, boot=ID, config=HASH,
    purpose=Enum("readings", ("rotate_key", KEY), "final"), gaps=Seq(GAP), salt_commitment=HASH, leaves=U32,
)  # fmt: skip
SEGMENT = Struct(format=U16, header=BYTES, seed=KEY, blocks=Seq(BYTES), signature=SIGNATURE)
SHOWN = Struct(index=U32, block=BYTES, salt=KEY, path=Seq(HASH))
PROOF = Struct(header=BYTES, shown=SHOWN, signature=SIGNATURE)


def keyed(key, message):
    return blake3(message, key=key).digest()


def commitment(seed):
    return keyed(b"tallystick/1 segment salt commit", seed)


def salt(seed, index):
    return keyed(seed, index.to_bytes(8, "little"))


def header_leaf(header):
    return keyed(b"tallystick/1 segment header leaf", header)


def block_leaf(salt_of_block, block):
    return keyed(b"tallystick/1 segment block  leaf", salt_of_block + block)


def join(left, right):
    return keyed(b"tallystick/1 segment merkle node", left + right)


def split(count):
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    at = split(len(leaves))
    return join(root(leaves[:at]), root(leaves[at:]))


def path(leaves, index):
    """Siblings of the leaf at `index`, from the leaf upwards."""
    if len(leaves) == 1:
        return []
    at = split(len(leaves))
    if index < at:
        return [*path(leaves[:at], index), root(leaves[at:])]
    return [*path(leaves[at:], index - at), root(leaves[:at])]


def climb(leaf, index, count, siblings):
    """The root that `siblings` lead to from the leaf at `index` of `count`."""
    if count == 1:
        need(not siblings, "the path is too long")
        return leaf
    need(siblings, "the path is too short")
    at = split(count)
    if index < at:
        return join(climb(leaf, index, at, siblings[:-1]), siblings[-1])
    return join(siblings[-1], climb(leaf, index - at, count - at, siblings[:-1]))


class Segment:
    """A sealed segment that was read: its bytes, what they say, and their hash."""

    def __init__(self, data):
        need(len(data) <= LIMIT, "the segment is oversized")
        sealed = decode(SEGMENT, data)
        need(sealed["format"] == 1, f"format {sealed['format']} is not known here")
        self.bytes, self.seed, self.signature = data, sealed["seed"], sealed["signature"]
        self.header_bytes, self.block_bytes = sealed["header"], sealed["blocks"]
        self.header = read_header(self.header_bytes)
        need(self.header["leaves"] == len(self.block_bytes) + 1, "the header counts other leaves")
        need(self.header["salt_commitment"] == commitment(self.seed), "the header commits to another seed")
        self.blocks = [columns.unpack(block, self.header["from"]) for block in self.block_bytes]
        names = [block.workload.encode() for block in self.blocks]
        need(all(a < b for a, b in zip(names, names[1:])), "workloads are not in order, each once")
        self.leaves = leaves(self.seed, self.block_bytes)
        self.hash = segment_root(self.header_bytes, self.leaves)

    def verify(self, key):
        keys.verify(key, DOMAIN, self.hash, self.signature)

    def prove(self, index):
        """The proof of the block at `index`."""
        shown = {
            "index": index, "block": self.block_bytes[index], "salt": salt(self.seed, index),
            "path": path(self.leaves, index),
        }  # fmt: skip
        return {"header": self.header_bytes, "shown": shown, "signature": self.signature}


def leaves(seed, blocks):
    return [block_leaf(salt(seed, index), block) for index, block in enumerate(blocks)]


def segment_root(header, block_leaves):
    """The header's leaf beside the root over the blocks; the leaf alone when there is none."""
    leaf = header_leaf(header)
    return join(leaf, root(block_leaves)) if block_leaves else leaf


def read_header(data):
    header = decode(HEADER, data)
    need(header["from"] < header["covered_through"], "the segment covers no time")
    opens = header["previous"][0] == "opens"
    need(opens == (header["seq"] == 0), "a stream opens at 0, and only there")
    at = header["from"]
    for gap in header["gaps"]:
        need(at <= gap["from"] < gap["to"] <= header["covered_through"], "gaps are not in order and within")
        at = gap["to"]
    return header


def seal(key, header, blocks, seed, widen=None, reorder=list):
    """The sealed bytes. `widen` and `reorder` make what a reader must refuse, under a good signature."""
    writer = Writer(widen)
    ordered = reorder(sorted(blocks, key=lambda block: block.workload.encode()))
    packed = [writer.part(lambda w, block=block: columns.put(w, block, header["from"])) for block in ordered]
    full = header | {"salt_commitment": commitment(seed), "leaves": len(packed) + 1}
    sealed = {"format": 1, "header": writer.part(lambda w: HEADER.write(w, full)), "seed": seed, "blocks": packed}
    hashed = segment_root(sealed["header"], leaves(seed, packed))
    SEGMENT.write(writer, sealed | {"signature": keys.sign(key, DOMAIN, hashed)})
    return writer.bytes()


def verify_proof(data, key):
    """The header and the block that a proof shows, once its signature holds."""
    proof = decode(PROOF, data)
    header, shown = read_header(proof["header"]), proof["shown"]
    count = header["leaves"] - 1
    need(shown["index"] < count, "there is no such block")
    blocks = climb(block_leaf(shown["salt"], shown["block"]), shown["index"], count, shown["path"])
    keys.verify(key, DOMAIN, join(header_leaf(proof["header"]), blocks), proof["signature"])
    return header, columns.unpack(shown["block"], header["from"])
