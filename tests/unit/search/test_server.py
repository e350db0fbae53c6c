"""The page of mcse search serve, through the framework's client: answers, errors, and what it must never give away."""

from __future__ import annotations

import html
import io
import os
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import uvicorn
from fastapi.testclient import TestClient

from mcse.commands.main import main
from mcse.search import hardening
from mcse.search import server as search_server
from mcse.search.engine import open_search
from mcse.search.hardening import is_loopback
from mcse.search.server import MAX_UPLOAD_MB, build_app, serve
from tests.fixtures.colour_model import COLOURS, build_colour_model, draw_colours

HOME = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images, among them one whose name is markup, with their index."""
    root = tmp_path_factory.mktemp("page")
    names = {f"{colour}.png": colour for colour in COLOURS}
    names["<img src=x onerror=alert(1)>&.png"] = "red"
    draw_colours(root / "images", names=names)
    model = build_colour_model(root / "model")
    main(["search", "index", str(root / "images"), "--model", str(model), "--output", str(root / "index")])
    (root / "secret.png").write_bytes((root / "images" / "red.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def search(folder):
    return open_search(folder / "index")


@pytest.fixture
def client(search) -> TestClient:
    return TestClient(build_app(search), base_url=HOME)


def names(page: str) -> list[str]:
    return [html.unescape(name) for name in re.findall(r'<span class="name">(.*?)</span>', page)]


def error(page: str) -> str:
    found = re.search(r'<p class="wrong" role="alert">(.*?)</p>', page, re.S)
    return html.unescape(re.sub("<.*?>", "", found.group(1))) if found else ""


def png(colour: str = "red", *, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(target, format=kind)
    return target.getvalue()


def place_of(search, name: str) -> int:
    return [image.path for image in search.index.images].index(name)


def test_the_first_page_shows_the_images(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert len(names(answer.text)) == 7
    assert error(answer.text) == ""
    assert "7 images of images" in answer.text


def test_a_sentence_finds_images(client):
    answer = client.get("/", params={"text": "a green image", "top": "4"})
    assert answer.status_code == 200
    assert names(answer.text)[0] == "green.png"
    assert len(names(answer.text)) == 4
    assert "1. 1.000" in answer.text
    assert "“a green image”" in answer.text
    assert "Not known, and so not looked for: &#39;a&#39;" in answer.text


def test_a_image_minus_and_plus_words(client, search):
    place = place_of(search, "blue.png")
    answer = client.get("/", params={"image": place, "minus": "blue", "plus": "red , "})
    assert names(answer.text)[0] in ("red.png", "<img src=x onerror=alert(1)>&.png")
    assert "blue.png" not in names(answer.text)
    assert "blue.png − blue + red" in answer.text
    assert f'src="/image/{place}" alt="The image asked by"' in answer.text
    assert f'name="image" value="{place}"' in answer.text


def test_an_uploaded_image_asks_and_takes_words(client):
    answer = client.post("/upload", files={"image": ("my sky.jpg", png("blue", kind="JPEG"), "image/jpeg")})
    assert answer.history[0].status_code == 303
    assert names(answer.text)[0] == "blue.png"
    assert "my sky.jpg" in answer.text
    mark = re.search(r'name="upload" value="([^"]+)"', answer.text).group(1)
    thumbnail = client.get(f"/upload/{mark}")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    again = client.get("/", params={"upload": mark, "minus": "blue", "plus": "green"})
    assert names(again.text)[0] == "green.png"


def test_images_are_sent_as_new_jpegs(client, search):
    answer = client.get(f"/image/{place_of(search, 'red.png')}")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "JPEG"
        assert image.size == (12, 9)
        assert max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), COLOURS["red"], strict=True)) < 8


@pytest.mark.parametrize(
    "path",
    [
        "/image/../secret.png",
        "/image/..%2Fsecret.png",
        "/image/%2e%2e/secret.png",
        "/image/red.png",
        "/image/-1",
        "/image/7",
        "/image/99999999999999999999",
        "/image/١",
        "/image//etc/passwd",
        "/secret.png",
        "/images/red.png",
        "/upload/guess",
        "/openapi.json",
        "/docs",
    ],
)
def test_nothing_but_the_index_is_served(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 405)
    assert not answer.content.startswith((b"\xff\xd8", b"\x89PNG"))


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    images = draw_colours(tmp_path / "images")
    model = build_colour_model(tmp_path / "model")
    main(["search", "index", str(images), "--model", str(model), "--output", str(tmp_path / "index")])
    client = TestClient(build_app(open_search(tmp_path / "index")), base_url=HOME)
    assert client.get("/image/0").status_code == 200
    name = sorted(path.name for path in images.iterdir())[0]
    (images / name).rename(tmp_path / "outside.png")
    (images / name).symlink_to(tmp_path / "outside.png")
    assert client.get("/image/0").status_code == 404
    (images / name).unlink()
    images.rename(tmp_path / "real")
    (tmp_path / "other").mkdir()
    assert client.get("/image/1").status_code == 404


def test_everything_on_the_page_is_escaped(client):
    attack = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    pages = [
        client.get("/"),
        client.get("/", params={"text": attack}),
        client.get("/", params={"text": "red", "plus": attack, "minus": "'\"><b>"}),
        client.get("/", params={"text": "red", "top": attack}),
        client.get("/", params={"image": attack}),
        client.get("/", params={"upload": attack}),
        client.get("/<script>alert(1)</script>"),
        client.post("/upload", files={"image": (f"{attack}.png", png("blue"), "image/png")}),
        client.post("/upload", files={"image": (attack, b"no image", "image/png")}),
    ]
    for answer in pages:
        assert "<script" not in answer.text.lower()
        assert "<img src=x" not in answer.text
        assert "<b>" not in answer.text
        assert "default-src 'none'" in html.unescape(answer.text)
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png" in pages[0].text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"text": "bleu"}, "knows no word of 'bleu'; known words like these: blue"),
        ({"text": "red", "plus": "gren"}, "unknown words: 'gren' (did you mean green"),
        ({"plus": "red"}, "Words are added to a sentence or an image"),
        ({"text": "red", "minus": "red"}, "the words cancel the query"),
        ({"text": "red", "top": "many"}, "images must be a number from 1 to 96, got 'many'"),
        ({"text": "red", "top": "97"}, "images must be a number from 1 to 96"),
        ({"image": "7"}, "image must be a number from 0 to 6, got '7'"),
        ({"image": "../secret"}, "image must be a number from 0 to 6"),
        ({"upload": "gone"}, "is not kept any more; upload it again"),
        ({"text": "x" * 1001}, "has 1001 characters"),
        ({"text": "red", "plus": ",".join(["blue"] * 21)}, "at most 20 words"),
    ],
)
def test_errors_are_shown_to_the_person(client, parameters, message):
    answer = client.get("/", params=parameters)
    assert answer.status_code == 400
    assert message in error(answer.text)
    if "text" in parameters and len(parameters["text"]) < 100:
        assert f'value="{parameters["text"]}"' in answer.text, "what was asked stays in the form"


def test_bad_uploads_are_shown_to_the_person(client, monkeypatch):
    def upload(content: bytes, name: str = "x.png"):
        return client.post("/upload", files={"image": (name, content, "image/png")})

    assert "image x.png: cannot be read: not an image" in error(upload(b"no image").text)
    assert "image x.png: cannot be read" in error(upload(png()[:40]).text)
    assert "its format is EPS" in error(upload(b"%!PS-Adobe-3.0 EPSF-3.0\n").text)
    assert "Choose a file first." in error(upload(b"", name="").text)
    assert "The form holds no file." in error(client.post("/upload", content=b"plain").text)
    monkeypatch.setattr(search_server, "MAX_UPLOAD_PIXELS", 50)
    assert "image x.png: cannot be read: it has 8 × 8 pixels" in error(upload(png()).text)
    for answer in (upload(b"no image"), client.post("/upload", content=b"plain")):
        assert answer.status_code == 400


def test_a_large_upload_is_not_read_to_its_end(client):
    sent = 0

    def chunks():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        for _ in range(64):
            sent += 1
            yield b"0" * 2**20

    answer = client.post("/upload", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert f"larger than {MAX_UPLOAD_MB} MB" in error(answer.text)
    whole = client.post("/upload", files={"image": ("x.png", b"0" * (MAX_UPLOAD_MB * 2**20 + 1), "image/png")})
    assert whole.status_code == 413


def test_only_the_last_uploads_are_kept(client, monkeypatch):
    monkeypatch.setattr(search_server, "_MAX_UPLOADS", 2)
    marks = []
    for _ in range(3):
        answer = client.post("/upload", files={"image": ("x.png", png(), "image/png")}, follow_redirects=False)
        marks.append(answer.headers["location"].removeprefix("/?upload="))
    assert [client.get(f"/upload/{mark}").status_code for mark in marks] == [404, 200, 200]
    assert len(set(marks)) == 3


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "",
        "[::2]:8765",
        "[::1].evil.com",
        "[::1].evil.com:8765",
        "localhost:x",
    ],
)
def test_other_names_for_this_machine_are_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 403
    assert "red.png" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765"])
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_the_address_that_was_asked_for_is_answered(search, monkeypatch):
    apps = []
    monkeypatch.setattr("mcse.search.hardening.uvicorn.run", lambda app, **_: apps.append(app))
    serve(search, host="127.0.0.2", port=1)
    client = TestClient(apps[0], base_url="http://127.0.0.2:1")
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403


def test_an_uploaded_copy_of_a_image_does_not_find_itself(client, search, folder):
    name = search.index.images[0].path
    content = (search.folder / name).read_bytes()
    shown = [
        names(client.post("/upload", files={"image": ("copy.png", sent, "image/png")}).text)
        for sent in (content, png("blue"))
    ]
    assert [name in found for found in shown] == [False, True]


def test_every_name_is_answered_where_the_person_asked_for_it(search):
    client = TestClient(build_app(search, names=None), base_url="http://images.example")
    assert client.get("/").status_code == 200


def test_forms_of_other_sites_are_refused(client):
    files = {"image": ("x.png", png(), "image/png")}
    assert client.post("/upload", files=files, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/upload", files=files, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999"):
        assert client.post("/upload", files=files, headers={"origin": origin}).status_code == 403
    assert client.post("/upload", files=files, headers={"origin": HOME}).status_code == 200


def test_only_two_images_are_decoded_at_a_time(client, monkeypatch):
    decode, at_once, most = search_server.decode_image, [], []

    def slow(*arguments, **options):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.05)
        image = decode(*arguments, **options)
        at_once.pop()
        return image

    monkeypatch.setattr(search_server, "decode_image", slow)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: client.post("/upload", files={"image": ("a.png", png(), "image/png")}), range(8))
        assert {answer.status_code for answer in answers} == {200}
    assert max(most) <= 2


def test_a_thumbnail_is_made_once(client, search, monkeypatch):
    opened = []
    monkeypatch.setattr(search_server, "load_image", lambda file: opened.append(file) or Image.new("RGB", (9, 9)))
    file = search.image_file(1)
    os.utime(file, ns=(0, 1))
    assert client.get("/image/1").content == client.get("/image/1").content
    assert opened == [file]
    os.utime(file, ns=(0, 2))
    client.get("/image/1")
    assert opened == [file, file]


def test_headers_forbid_frames_and_sniffing(client):
    for path in ("/", "/image/0", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_leafing_through(client, monkeypatch):
    monkeypatch.setattr(search_server, "_PAGE", 3)
    pages = [names(client.get("/", params={"page": number}).text) for number in (1, 2, 3, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 1]
    assert len({name for page in pages for name in page}) == 7
    assert "Page 2 of 3" in client.get("/", params={"page": "2"}).text


def test_an_index_of_stored_features_offers_no_upload(folder, search, client, monkeypatch):
    assert 'type="file"' in client.get("/").text
    monkeypatch.setattr(type(search), "takes_images", property(lambda self: False))
    assert 'type="file"' not in client.get("/").text
    answer = client.post("/upload", files={"image": ("x.png", png(), "image/png")})
    assert answer.status_code == 400
    assert "cannot read images here" in error(answer.text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.0.2", False),
        ("::", False),
        ("images.example", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


def test_another_host_is_said_aloud(folder, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(search_server, "serve", lambda search, **where: started.append(where))
    index = str(folder / "index")
    assert main(["search", "serve", index, "--port", "9000"]) == 0
    captured = capsys.readouterr()
    assert "ATTENTION" not in captured.err
    assert "http://127.0.0.1:9000/" in captured.out
    assert main(["search", "serve", index, "--host", "0.0.0.0"]) == 0
    assert "ATTENTION: 0.0.0.0 is no loopback address" in capsys.readouterr().err
    assert started == [{"host": "127.0.0.1", "port": 9000}, {"host": "0.0.0.0", "port": 8765}]
    assert main(["search", "serve", index, "--port", "0"]) == 2
    assert "--port must be from 1 to 65535" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "mcse.search.server")
    assert main(["search", "serve", str(folder / "index")]) == 2
    assert "pip install 'mcse[serve]'" in capsys.readouterr().err


@pytest.fixture
def port(search, monkeypatch):
    """Of a server that waits a moment for the heads of questions, and for forms."""
    monkeypatch.setattr(hardening, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(search_server, "BODY_SECONDS", 0.3)
    started: list[uvicorn.Server] = []

    def run(app, **options):
        started.append(uvicorn.Server(uvicorn.Config(app, **options)))
        started[0].run()

    monkeypatch.setattr(uvicorn, "run", run)
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    thread = threading.Thread(target=lambda: serve(search, host="127.0.0.1", port=number))
    thread.start()
    while not (started and started[0].started):
        time.sleep(0.01)
    yield number
    started[0].should_exit = True
    thread.join()


def received(connection: socket.socket) -> bytes:
    """All until the other side closes; a minute is too long."""
    connection.settimeout(60)
    content = b""
    try:
        while block := connection.recv(65536):
            content += block
    except ConnectionResetError:
        pass
    return content


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "], ids=["nothing", "half a head"])
def test_a_connection_that_asks_nothing_is_closed(port, sent):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert received(connection) == b""


def test_half_a_head_after_an_answer_is_not_waited_for(port):
    head = b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + b"\r\n" + head)
        assert received(connection).startswith(b"HTTP/1.1 404")


def test_half_a_form_is_not_waited_for(port):
    head = b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + b"Content-Length: 1000\r\n\r\n--b\r\n")
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"The file did not arrive in time." in answer


def test_a_form_that_says_it_is_too_large_is_not_read(port):
    head = b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + b"Content-Length: 99999999\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "host", ["[::1].evil.com", "[::1].evil.com:8765", "127.0.0.1.evil.com", "[::1]evil.com", "::1"]
)
def test_hosts_that_only_begin_as_local_ones_are_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 403
