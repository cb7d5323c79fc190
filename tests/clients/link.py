"""HTTP over a Unix socket, for clients that know only http://."""

import http.client
import socket

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


def connected(path):
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(30)
    link.connect(path)
    return link


class Plain(http.client.HTTPConnection):
    """What an application without any library would use."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = connected(self.path)


def session(path):
    """A requests session that reaches the socket whatever the URL's host."""

    class Connection(HTTPConnection):
        def connect(self):
            self.sock = connected(path)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class Adapter(HTTPAdapter):
        def get_connection_with_tls_context(self, *_, **__):
            return pool

        def request_url(self, request, proxies):
            return request.path_url

    pool = Pool("localhost")
    made = requests.Session()
    made.mount("http://", Adapter())
    return made
