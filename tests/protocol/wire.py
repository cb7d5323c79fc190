"""Sections 3 and 4: signed statements, frames, messages, the join token."""

import base64

import keys
from encoding import (
    BYTES, HASH, ID, KEY, SIGNATURE, TEXT, TIME, U16, U32, U64, Enum, Malformed, Option, Seq, Struct, decode, encode,
    need,
)  # fmt: skip

RECEIPT = Struct(node=ID, stream=ID, seq=U64, hash=HASH, epoch=ID, at=TIME, since=U64, quarantined=Seq(U64))
ENROLMENT_RECORD = Struct(node=ID, name=TEXT, signing_key=KEY, **{"from": U64}, at=TIME)
RECEIPT_KEY = Struct(key=KEY, **{"from": TIME})
SUCCESSION = Struct(certificate=BYTES, **{"from": TIME})
RETIREMENT = Struct(key=KEY, **{"from": TIME})
SIGNED = Struct(bytes=BYTES, signature=SIGNATURE)
DOMAINS = {
    RECEIPT: "tallystick/1 receipt",
    ENROLMENT_RECORD: "tallystick/1 enrolment record",
    RECEIPT_KEY: "tallystick/1 receipt key",
    SUCCESSION: "tallystick/1 authority succession",
    RETIREMENT: "tallystick/1 authority retirement",
}
POSSESSION = "tallystick/1 possession"

REASONS = [
    "version", "frame", "oversized", "message", "format", "newer_format", "signature", "wrong_node", "unknown_node",
    "banned", "retired", "chain", "ahead", "fork", "stream_closed", "token", "busy",
]  # fmt: skip
VERSIONS = Struct(oldest=U16, newest=U16)
POSITION = Struct(next=U64, head=Option(HASH))
HELLO = Struct(versions=VERSIONS, software=TEXT, node=ID, stream=ID, oldest=U64, position=POSITION)
WELCOME = Struct(version=U16, server_time=TIME, position=POSITION, epoch=ID, window=U32, receipt_keys=Seq(SIGNED))
REFUSED = Struct(seq=Option(U64), reason=Enum(*REASONS), detail=TEXT)
ENROLL = Struct(
    versions=VERSIONS, token_id=ID, secret=KEY, name=TEXT, signing_key=KEY, tls_request=BYTES, proof=SIGNATURE
)
ENROLLED = Struct(
    version=U16, record=SIGNED, certificates=Seq(BYTES), ca=BYTES, receipt_keys=Seq(SIGNED), addresses=Seq(TEXT)
)
TRUST = Struct(successions=Seq(SIGNED), retirements=Seq(SIGNED), receipt_keys=Seq(SIGNED), addresses=Seq(TEXT))
RENEW = Struct(versions=VERSIONS, software=TEXT, node=ID)
RENEWED = Struct(version=U16, server_time=TIME, certificates=Seq(BYTES), trust=TRUST)
NOTICE = Struct(trust=TRUST, settings=Option(Struct(version=U64, document=TEXT)))
IN_FORCE = Struct(settings=U64, digest=HASH, problem=Option(TEXT))
CLOSING = Struct(code=U32, why=TEXT)
JOIN_TOKEN = Struct(addresses=Seq(TEXT), ca=HASH, id=ID, secret=KEY)
TOKEN_PREFIX = "tallystick-join-1."


class Raw:
    """Sealed bytes as they are."""

    def read(self, reader):
        return reader.take(len(reader.data))

    def write(self, writer, value):
        writer.put(value)


HELLO_FRAME, WELCOME_FRAME, SEGMENT_FRAME, RECEIPT_FRAME, REFUSED_FRAME, ENROLL_FRAME, ENROLLED_FRAME = range(1, 8)
FRAMES = {
    HELLO_FRAME: (HELLO, 4 << 10),
    WELCOME_FRAME: (WELCOME, 64 << 10),
    SEGMENT_FRAME: (Raw(), 8 << 20),
    RECEIPT_FRAME: (SIGNED, 64 << 10),
    REFUSED_FRAME: (REFUSED, 4 << 10),
    ENROLL_FRAME: (ENROLL, 64 << 10),
    ENROLLED_FRAME: (ENROLLED, 64 << 10),
    8: (RENEW, 4 << 10),
    9: (RENEWED, 64 << 10),
    10: (NOTICE, 128 << 10),
    11: (IN_FORCE, 4 << 10),
    12: (CLOSING, 4 << 10),
}


def frame(kind, message):
    payload = encode(FRAMES[kind][0], message)
    need(len(payload) <= FRAMES[kind][1], "the frame is oversized")
    return bytes([kind]) + len(payload).to_bytes(4, "big") + payload


def take_frame(data):
    """The kind, message and rest when a whole frame stands at the front, else nothing yet."""
    if len(data) < 5:
        return None
    kind, length = data[0], int.from_bytes(data[1:5], "big")
    need(kind in FRAMES, f"there is no frame of kind {kind}")
    need(length <= FRAMES[kind][1], "the frame is oversized")
    if len(data) < 5 + length:
        return None
    return kind, decode(FRAMES[kind][0], data[5 : 5 + length]), data[5 + length :]


def whole_frame(data):
    taken = take_frame(data)
    need(taken, "the frame ends too early")
    kind, message, rest = taken
    need(not rest, "bytes follow the frame")
    return kind, message


def statement(kind, signed, key):
    """What `key` signed."""
    keys.verify(key, DOMAINS[kind], signed["bytes"], signed["signature"])
    return decode(kind, signed["bytes"])


def read_token(text):
    need(text.startswith(TOKEN_PREFIX), "not a join token")
    body = text.removeprefix(TOKEN_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise Malformed(f"no base64url: {error}") from None
    token = decode(JOIN_TOKEN, data)
    need(write_token(token) == text, "not the canonical spelling of the token")
    return token


def write_token(token):
    body = base64.urlsafe_b64encode(encode(JOIN_TOKEN, token)).decode().rstrip("=")
    return TOKEN_PREFIX + body
