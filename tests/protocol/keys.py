"""Ed25519, verified strictly, over `domain ‖ 0x00 ‖ message`."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from encoding import need

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def secret(seed):
    return Ed25519PrivateKey.from_private_bytes(seed)


def public(key):
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(key, domain, message):
    return key.sign(domain.encode() + b"\0" + message)


def verify(key, domain, message, signature):
    """Refuses what is not signed so, and what only a lenient verifier would take."""
    need(_ordinary(key), "the public key is of small order or not canonical")
    need(_ordinary(signature[:32]), "the commitment is of small order or not canonical")
    need(int.from_bytes(signature[32:], "little") < ORDER, "the scalar is not canonical")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, domain.encode() + b"\0" + message)
    except InvalidSignature:
        need(False, f"no signature of {key.hex()[:16]} for {domain}")


def _ordinary(encoded):
    """A canonical point whose order is not one of 1, 2, 4 and 8."""
    y = int.from_bytes(encoded, "little") & (1 << 255) - 1
    x = _x(y, encoded[31] >> 7) if y < P else None
    if x is None:
        return False
    for _ in range(3):
        x, y = _double(x, y)
    return (x, y) != (0, 1)


def _x(y, odd):
    """RFC 8032, section 5.1.3."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square or (x == 0 and odd):
        return None
    return P - x if x & 1 != odd else x


def _double(x, y):
    k = D * x * x * y * y % P
    return 2 * x * y * pow(1 + k, -1, P) % P, (y * y + x * x) * pow(1 - k, -1, P) % P
