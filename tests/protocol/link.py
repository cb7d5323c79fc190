"""Section 4: a QUIC connection to a reconciler, and frames on its one stream."""

import asyncio
import contextlib
import ssl

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived
from cryptography.hazmat.primitives.serialization import Encoding

import wire
from encoding import need

SERVER_NAME = "reconciler.tallystick.internal"
INGEST, ENROLL = "tallystick/1", "tallystick-enroll/1"
DONE, REFUSED = 0, 2
PATIENCE = 20


class Link(QuicConnectionProtocol):
    """One connection, its stream, and the code it was closed with."""

    def __init__(self, quic):
        super().__init__(quic)
        self.arrived, self.news, self.closed = b"", asyncio.Event(), None
        self.stream = quic.get_next_available_stream_id()

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.arrived += event.data
        if isinstance(event, ConnectionTerminated):
            self.closed = event
        self.news.set()

    def peer_certificates(self):
        """The server's certificate and those behind it, as DER."""
        tls = self._quic.tls
        certificates = [tls._peer_certificate, *tls._peer_certificate_chain]
        return [certificate.public_bytes(Encoding.DER) for certificate in certificates]

    def send(self, kind, message):
        self.send_bytes(wire.frame(kind, message))

    def send_bytes(self, data):
        self._quic.send_stream_data(self.stream, data)
        self.transmit()

    async def receive(self):
        """The next frame's kind and message; None once the connection is closed without one."""
        async with asyncio.timeout(PATIENCE):
            while not (taken := wire.take_frame(self.arrived)):
                if self.closed:
                    need(not self.arrived, "the connection ended within a frame")
                    return None
                self.news.clear()
                await self.news.wait()
        kind, message, self.arrived = taken
        return kind, message

    async def expect(self, kind):
        received = await self.receive()
        need(received is not None, f"{self.closed} came, where a frame of kind {kind} was expected")
        need(received[0] == kind, f"{received} came, where a frame of kind {kind} was expected")
        return received[1]

    async def expect_close(self, code):
        received = await self.receive()
        need(received is None, f"{received} came, where the end was expected")
        need(self.closed.error_code == code, f"{self.closed} came, where code {code} was expected")


@contextlib.asynccontextmanager
async def connect(address, alpn, trust=None, certificate=None):
    """A connection to `address`.

    `trust`, PEM, is the CA that must have issued the server's certificate; without it the caller judges
    `peer_certificates`. `certificate` is the client's own: files of the chain and of the key.
    """
    host, port = address.rsplit(":", 1)
    configuration = QuicConfiguration(alpn_protocols=[alpn], server_name=SERVER_NAME, cadata=trust)
    if trust is None:
        configuration.verify_mode = ssl.CERT_NONE
    if certificate:
        configuration.load_cert_chain(*certificate)
    loop = asyncio.get_running_loop()
    make = lambda: Link(QuicConnection(configuration=configuration))  # noqa: E731
    transport, link = await loop.create_datagram_endpoint(make, local_addr=("127.0.0.1", 0))
    try:
        link.connect((host, int(port)))
        await asyncio.wait_for(link.wait_connected(), PATIENCE)
        yield link
    finally:
        link.close(error_code=DONE)
        await link.wait_closed()
        transport.close()
