"""TLS by the documented step: a folder with a certificate, and no edited file."""

import http.client
import socket
import ssl
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.certificates import certificate
from tests.support.shipped_nginx import BINARIES, shipped_nginx
from tests.unit.test_containers import deploy


class Api(BaseHTTPRequestHandler):
    """Knows no product."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def pair(folder, name):
    folder.mkdir()
    certificate(folder, name)
    (folder / f"{name}.key").rename(folder / "privkey.pem")
    return (folder / f"{name}.crt").rename(folder / "fullchain.pem")


@pytest.mark.parametrize("binary", list(BINARIES.values()), ids=list(BINARIES))
def test_a_folder_with_a_certificate_turns_tls_and_http_2_on(tmp_path, api, binary):
    mine = pair(tmp_path / "certificate", "shop.example")
    other = pair(tmp_path / "other", "shop.example")
    with shipped_nginx(tmp_path, binary, upstream=api, HOSTS="shop.example") as (edge, _):
        plain = http.client.HTTPConnection("127.0.0.1", edge.port)
        plain.request("GET", "/api/products", headers={"Host": "shop.example"})
        answer = plain.getresponse()
        assert (answer.status, answer.headers["Location"]) == (308, "https://shop.example/api/products")
        plain.close()
        # As docker/deploy asks: by the address, with the host that is always served, trusting this certificate only.
        base_url = f"https://127.0.0.1:{edge.tls_port}"
        assert deploy().Edge(base_url, mine).call("/api/products") == []
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            deploy().Edge(base_url, other).call("/api/products")
        context = ssl.create_default_context(cafile=mine)
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", edge.tls_port)), server_hostname="shop.example"
        ) as browser:
            assert browser.selected_alpn_protocol() == "h2"
