"""TLS by the documented step: a folder with a certificate, and no edited file."""

import http.client
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from edge import Edge, Failed, faults_of_nginx

from tests.support.certificates import certificate
from tests.support.shipped_nginx import BINARIES, shipped_nginx


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
        assert Edge(base_url, mine).call("/api/products") == []
        with pytest.raises(Failed, match="CERTIFICATE_VERIFY_FAILED"):
            Edge(base_url, other).call("/api/products")
        context = ssl.create_default_context(cafile=mine)
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", edge.tls_port)), server_hostname="shop.example"
        ) as browser:
            assert browser.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("binary", list(BINARIES.values()), ids=list(BINARIES))
def test_deploy_tells_what_nginx_refuses_before_it_stops_anything(tmp_path, api, binary):
    folder = tmp_path / "certificate"
    pair(folder, "shop.example")
    pair(tmp_path / "other", "shop.example")
    with shipped_nginx(tmp_path, binary, upstream=api, HOSTS="shop.example") as (edge, _):
        assert edge.test().returncode == 0
        shipped = (tmp_path / "nginx/locations.conf").read_text()
        tried = {
            "connection limit must be less 65536": {"ADDRESS_CONNECTIONS": "100000"},
            "CELLS: no API and SSE in 1=a:1": {"CELLS": "1=a:1"},
        }
        if edge.asks_early:  # the cells are upstreams then
            tried["api_1"] = {"CELLS": "1=a:1,b:1 1=a:1,b:1"}
        wrong = {name: edge.test(**variables) for name, variables in tried.items()}
        (tmp_path / "nginx/locations.conf").write_text(
            shipped.replace("location /sse/ {", "allow 10.0.0.0/8\nlocation /sse/ {")
        )
        wrong["locations.conf"] = edge.test()
        (tmp_path / "nginx/locations.conf").write_text(shipped)
        (tmp_path / "other/privkey.pem").rename(folder / "privkey.pem")
        wrong["key values mismatch"] = edge.test()
        (folder / "privkey.pem").unlink()
        wrong["privkey.pem"] = edge.test()
    for name, done in wrong.items():
        (line,) = faults_of_nginx(done.stderr)
        assert done.returncode
        assert line.startswith("nginx: ")
        assert name in line
