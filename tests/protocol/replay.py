"""Reads what a real agent sealed, checks it from the first segment to the last, and prints as JSON what was used.

Usage: python replay.py FOLDER, with `ca.der`, `record` (the CA's word for the node's key) and `SEQ.segment`.
"""

import json
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import wire
from encoding import decode, need
from sealed import Segment
from usage import Usage


def main(folder):
    folder = pathlib.Path(folder)
    ca = x509.load_der_x509_certificate((folder / "ca.der").read_bytes()).public_key()
    signed = decode(wire.SIGNED, (folder / "record").read_bytes())
    record = wire.statement(wire.ENROLMENT_RECORD, signed, ca.public_bytes(Encoding.Raw, PublicFormat.Raw))
    usage, key = Usage(), record["signing_key"]
    paths = sorted(folder.glob("*.segment"), key=lambda path: int(path.stem))
    for seq, path in enumerate(paths):
        segment = Segment(path.read_bytes())
        need((segment.header["node"], segment.header["seq"]) == (record["node"], seq), "another segment was expected")
        key = usage.add(segment, key)
    print(json.dumps({"node": record["node"].hex(), "segments": len(paths), "usage": usage.said()}))


if __name__ == "__main__":
    main(sys.argv[1])
