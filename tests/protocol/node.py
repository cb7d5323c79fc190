"""An enrolled node: its keys, its certificate, whom it trusts. And how it becomes one."""

import pathlib
from dataclasses import dataclass

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

import keys
import link
import wire
from encoding import need

VERSIONS = {"oldest": 1, "newest": 1}


@dataclass
class Node:
    id: bytes
    key: Ed25519PrivateKey
    ca: x509.Certificate
    addresses: list
    receipt_keys: list
    folder: pathlib.Path

    @property
    def ca_key(self):
        return self.ca.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def connect(self):
        trust = self.ca.public_bytes(Encoding.PEM)
        certificate = (self.folder / "certificate.pem", self.folder / "key.pem")
        return link.connect(self.addresses[0], link.INGEST, trust, certificate)

    def trust_receipt_keys(self, certificates):
        """Adds those that the CA certified; another is an error."""
        for signed in certificates:
            said = wire.statement(wire.RECEIPT_KEY, signed, self.ca_key)
            self.receipt_keys.append(said["key"])

    def read_receipt(self, signed):
        for key in self.receipt_keys:
            try:
                return wire.statement(wire.RECEIPT, signed, key)
            except ValueError:
                continue
        need(False, "no receipt key that the CA certified signed this receipt")


async def enroll(text, name, folder, draw):
    token = wire.read_token(text)
    signing, tls = (keys.secret(draw.randbytes(32)) for _ in range(2))
    async with link.connect(token["addresses"][0], link.ENROLL) as enrolment:
        ca = _authentic(enrolment.peer_certificates(), token["ca"])
        enrolment.send(wire.ENROLL_FRAME, _request(token, name, signing, tls))
        enrolled = await enrolment.expect(wire.ENROLLED_FRAME)
    need(enrolled["ca"] == ca.public_bytes(Encoding.DER), "another CA's certificate came back")
    folder = pathlib.Path(folder)
    chain = [x509.load_der_x509_certificate(der) for der in enrolled["certificates"]]
    (folder / "certificate.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    (folder / "key.pem").write_bytes(tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    node = Node(b"", signing, ca, enrolled["addresses"] or token["addresses"], [], folder)
    record = wire.statement(wire.ENROLMENT_RECORD, enrolled["record"], node.ca_key)
    need(record["signing_key"] == keys.public(signing), "the record names another key")
    need((record["name"], record["from"]) == (name, 0), "the record names another node")
    subject = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    need(subject == record["node"].hex(), "the certificate names another node")
    chain[0].verify_directly_issued_by(ca)
    node.id = record["node"]
    node.trust_receipt_keys(enrolled["receipt_keys"])
    return node


def _authentic(certificates, fingerprint):
    """The CA's certificate, once it is the token's and issued the server's."""
    found = [der for der in certificates if blake3(der).digest() == fingerprint]
    need(found, "the server's chain does not hold the CA that the token names")
    ca, server = (x509.load_der_x509_certificate(der) for der in (found[0], certificates[0]))
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    need(link.SERVER_NAME in names.get_values_for_type(x509.DNSName), "the server has another name")
    return ca


def _request(token, name, signing, tls):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(tls, None)
    der = request.public_bytes(Encoding.DER)
    return {
        "versions": VERSIONS, "token_id": token["id"], "secret": token["secret"], "name": name,
        "signing_key": keys.public(signing), "tls_request": der,
        "proof": keys.sign(signing, wire.POSSESSION, token["id"] + der),
    }  # fmt: skip
