"""mcse serve: the rows of ``encode``, whoever asks; what is refused, and by which field; what it never gives away."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import openai
import uvicorn
from fastapi.testclient import TestClient

from mcse.commands.main import main
from mcse.encoders.loading import load_encoder
from mcse.search import hardening, requests
from mcse.search.embedding_index import EmbeddingIndex
from mcse.search.requests import MAX_BODY_MB, MAX_CHARACTERS, MAX_TEXTS
from mcse.search.served_index import open_served
from mcse.search.service import ServiceOptions, build_service
from tests.fixtures.colour_model import COLOURS, build_colour_model, draw_colours
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert

HOME = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of sentences, and one of images with an index of some."""
    place = tmp_path_factory.mktemp("service")
    build_tiny_bert(place / "bert")
    draw_colours(place / "images")
    build_colour_model(place / "colours")
    (place / "secret.png").write_bytes(next((place / "images").iterdir()).read_bytes())
    index = ["--model", str(place / "colours"), "--output", str(place / "index")]
    assert main(["search", "index", str(place / "images"), *index]) == 0
    return place


@pytest.fixture(scope="module")
def encoder(place):
    return load_encoder(str(place / "bert"), pooling="mean")


@pytest.fixture(scope="module")
def colours(place):
    return load_encoder(str(place / "colours"))


@pytest.fixture
def client(encoder):
    return TestClient(build_service(encoder, ServiceOptions(name="bert")), base_url=HOME)


@pytest.fixture
def images(place, colours):
    """A service of images."""
    index = open_served(place / "index", colours, str(place / "colours"))
    return TestClient(build_service(colours, ServiceOptions(name="colours"), index=index), base_url=HOME)


def rows(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    return np.array([one["embedding"] for one in data], dtype=np.float32)


def refusal(answer, status=400) -> dict:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert "Traceback" not in answer.text
    return answer.json()["error"]


def image_url(colour: str) -> str:
    target = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(target, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


class Live:
    """A service on a port of its own."""

    def __init__(self, app, monkeypatch) -> None:
        self.started: list[uvicorn.Server] = []

        def run(app, **options):
            self.started.append(uvicorn.Server(uvicorn.Config(app, **options)))
            self.started[0].run()

        monkeypatch.setattr(uvicorn, "run", run)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.thread = threading.Thread(
            target=hardening.listen, args=(app,), kwargs={"host": "127.0.0.1", "port": self.port}
        )
        self.thread.start()
        while not (self.started and self.started[0].started):
            time.sleep(0.01)

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="secret", max_retries=0)

    def stop(self) -> None:
        self.started[0].should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def live(encoder, monkeypatch):
    """A service with a token."""
    served = Live(build_service(encoder, ServiceOptions(name="bert", token="secret")), monkeypatch)
    yield served
    served.stop()


# OpenAI's own client.


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openais_client_gets_the_rows_of_encode(live, encoder, form):
    answer = live.openai.embeddings.create(model="bert", input=list(TEXTS), **form)
    found = [one.embedding for one in answer.data]
    if form.get("encoding_format") == "base64":
        found = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in found]
    np.testing.assert_allclose(np.array(found, dtype=np.float32), encoder.encode(TEXTS), rtol=0, atol=1e-6)
    assert answer.usage.prompt_tokens == sum(encoder.count_tokens(TEXTS))
    assert answer.model == "bert"
    one = live.openai.embeddings.create(model="bert", input=TEXTS[0], dimensions=5).data[0].embedding
    cut = encoder.encode(TEXTS[0], normalize=False)[:5]
    np.testing.assert_allclose(one, cut / np.linalg.norm(cut), rtol=0, atol=1e-5)


def test_openais_client_is_told_what_is_wrong(live):
    client = live.openai
    for given, field in (
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1, 2, 3]]}, "input"),
        ({"input": "a", "dimensions": 1000}, "dimensions"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            client.embeddings.create(model="bert", **given)
        assert error.value.param == field
    with pytest.raises(openai.NotFoundError, match="the model here is 'bert'"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="guess").embeddings.create(model="bert", input="a")
    assert [model.id for model in client.models.list()] == ["bert"]


# Embeddings and similarity.


def test_a_text_alone_and_several_are_the_same_rows(client, encoder):
    np.testing.assert_allclose(
        rows(client.post("/v1/embeddings", json={"input": TEXTS[0]})), encoder.encode(TEXTS[:1]), atol=1e-6
    )
    many = [f"{TEXTS[number % 10]} {number}" for number in range(200)]
    np.testing.assert_allclose(
        rows(client.post("/v1/embeddings", json={"input": many})), encoder.encode(many), atol=1e-6
    )


def test_similarities_are_cosines(client, encoder):
    first, second = list(TEXTS[:3]), list(TEXTS[3:7])
    for given, expected in (
        ({"first": first, "second": second}, encoder.similarity(first, second)),
        ({"first": first}, encoder.similarity(first, first)),
        ({"first": first[0], "second": second[0]}, encoder.similarity(first[:1], second[:1])),
    ):
        answer = client.post("/similarity", json=given)
        assert answer.status_code == 200
        np.testing.assert_allclose(answer.json()["similarity"], expected, atol=1e-6)
        assert answer.json()["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "given", "field", "said"),
    [
        ("/v1/embeddings", {}, "input", "input is missing"),
        ("/v1/embeddings", {"input": []}, "input", f"1 to {MAX_TEXTS} texts are taken at once, got 0"),
        ("/v1/embeddings", {"input": ["a"] * (MAX_TEXTS + 1)}, "input", f"got {MAX_TEXTS + 1}"),
        ("/v1/embeddings", {"input": "  "}, "input", "input is empty"),
        ("/v1/embeddings", {"input": ["a", None]}, "input[1]", "must be text, got null"),
        ("/v1/embeddings", {"input": [1, 2]}, "input", "token ids"),
        ("/v1/embeddings", {"input": "a" * (MAX_CHARACTERS + 1)}, "input", "65,537 characters"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format", "float or base64"),
        ("/v1/embeddings", {"input": "a", "dimensions": 33}, "dimensions", "from 1 to 32, got 33"),
        ("/v1/embeddings", {"input": "a", "dimensions": True}, "dimensions", "got True"),
        ("/v1/embeddings", {"input": "a", "truncate": 3}, "truncate", "unknown field 'truncate'"),
        ("/v1/embeddings", {"input": [{"image": "aGk="}]}, "input", "bert takes no images"),
        ("/similarity", {"first": "a", "second": [""]}, "second", "second is empty"),
        ("/similarity", {"second": "a"}, "first", "first is missing"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(client, path, given, field, said):
    error = refusal(client.post(path, json=given))
    assert error["param"] == field
    assert said in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"input": "\xff"}', b'{"input": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(client, body):
    assert refusal(client.post("/v1/embeddings", content=body))["message"].startswith("the body")


def test_a_large_body_is_refused(client):
    answer = client.post("/v1/embeddings", content=b"x" * (MAX_BODY_MB * 2**20 + 1))
    assert refusal(answer, 413)["message"] == f"the body is larger than {MAX_BODY_MB} MB"


def test_half_a_body_is_not_waited_for(live, monkeypatch):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"input"')
        connection.settimeout(60)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_an_error_of_the_model_is_no_traceback(client, encoder, monkeypatch, caplog):
    def fails(texts):
        raise RuntimeError("layer 3 at /home/me")

    monkeypatch.setattr(type(encoder), "encode", lambda self, texts: fails(texts))
    error = refusal(client.post("/v1/embeddings", json={"input": "a"}), 500)
    assert "home" not in error["message"]
    assert "RuntimeError: layer 3" in caplog.text
    assert "Traceback" not in caplog.text


# Who is answered.


def test_without_the_token_nothing_but_health_is_answered(encoder):
    client = TestClient(build_service(encoder, ServiceOptions(name="bert", token="secret")), base_url=HOME)
    asked = {"json": {"input": "a"}}
    basic = base64.b64encode(b"any:secret").decode()
    for headers in ({}, {"authorization": "Bearer guess"}, {"authorization": "secret"}, {"authorization": "Basic x"}):
        answer = client.post("/v1/embeddings", headers=headers, **asked)
        assert refusal(answer, 401)["code"] == "invalid_api_key"
        assert "www-authenticate" in answer.headers
    for right in ("Bearer secret", "bearer secret", f"Basic {basic}"):
        assert client.post("/v1/embeddings", headers={"authorization": right}, **asked).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/nowhere").status_code == 401
    assert client.get("/health").status_code == 200


def test_other_hosts_and_sites_are_refused(client):
    asked = {"json": {"input": "a"}}
    assert client.post("/v1/embeddings", headers={"host": "evil.example"}, **asked).status_code == 403
    assert client.post("/v1/embeddings", headers={"origin": "https://evil.example"}, **asked).status_code == 403
    assert client.post("/v1/embeddings", headers={"sec-fetch-site": "cross-site"}, **asked).status_code == 403
    assert client.get("/health").headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v1/../secret.png", "/image/0", "/v1/models/../x"])
def test_nothing_else_is_there(client, path):
    assert refusal(client.get(path), 404)["type"] == "invalid_request_error"
    assert client.get("/v1/embeddings").status_code == 405


# Indexes.


def test_a_sentence_finds_sentences(encoder, tmp_path):
    EmbeddingIndex.build(encoder, TEXTS, ids=[f"t{number}" for number in range(10)]).save(tmp_path / "index")
    served = open_served(tmp_path / "index", encoder, "bert")
    client = TestClient(build_service(encoder, ServiceOptions(name="bert"), index=served), base_url=HOME)
    answer = client.post("/search", json={"query": [TEXTS[4], TEXTS[1]], "top_k": 3}).json()["results"]
    expected = EmbeddingIndex.build(encoder, TEXTS).search([TEXTS[4], TEXTS[1]], top_k=3)
    assert [[hit["text"] for hit in hits] for hits in answer] == [[hit.text for hit in hits] for hits in expected]
    assert answer[0][0] == {"id": "t4", "text": TEXTS[4], "score": pytest.approx(1, abs=1e-5)}
    assert refusal(client.post("/search", json={"image": image_url("red")}))["param"] == "image"
    assert client.get("/health").json()["index"] == 10


def test_what_mcse_embed_wrote_is_searched(place, encoder, tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    model = str(place / "bert")
    flags = ["--input", str(tmp_path / "texts.txt"), "--pooling", "mean", "--rows-a-file", "4", "--dim", "20"]
    assert main(["embed", model, *flags, "--output", str(tmp_path / "rows")]) == 0
    served = open_served(tmp_path / "rows", encoder, model)
    client = TestClient(build_service(encoder, ServiceOptions(name="bert"), index=served), base_url=HOME)
    [hits] = client.post("/search", json={"query": TEXTS[7], "top_k": 2}).json()["results"]
    assert hits[0] == {"id": 7, "score": pytest.approx(1, abs=1e-5)}
    with pytest.raises(ValueError, match=r"was made with .*bert \(pooling mean\)"):
        open_served(tmp_path / "rows", load_encoder(model, pooling="cls"), model)
    build_tiny_bert(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="is another model"):
        open_served(tmp_path / "rows", encoder, str(tmp_path / "other"))


def test_sentences_and_images_find_images(images, colours):
    [hits] = images.post("/search", json={"query": "a green image", "top_k": 1}).json()["results"]
    assert hits[0]["text"] == "green.png"
    [hits] = images.post("/search", json={"image": image_url("blue"), "top_k": 2}).json()["results"]
    assert hits[0]["text"] == "blue.png"
    found = rows(images.post("/v1/embeddings", json={"input": ["red", {"image": image_url("red")}, {"text": "blue"}]}))
    with Image.open(io.BytesIO(base64.b64decode(image_url("red").partition(",")[2]))) as image:
        expected = [
            *colours.encode_captions(["red"]),
            *colours.encode_images([image]),
            *colours.encode_captions(["blue"]),
        ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_encoder_that_is_not_available_is_said(images, colours, monkeypatch, caplog):
    def missing(self, images, **_):
        raise ValueError("knows no image tower at /home/me")

    monkeypatch.setattr(type(colours), "encode_images", missing)
    error = refusal(images.post("/v1/embeddings", json={"input": [{"image": image_url("red")}]}))
    assert error["message"] == "colours takes no images here; the service's log says why"
    assert "knows no image tower" in caplog.text


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/etc/passwd", "base64"),
        ("file:///etc/passwd", "addresses are not opened"),
        ("https://example.com/a.png", "addresses are not opened"),
        ("data:image/png;base64,aGVsbG8=", "cannot be read: not an image"),
        (7, "image must be base64"),
    ],
)
def test_images_come_with_the_request_or_not_at_all(images, image, said):
    error = refusal(images.post("/v1/embeddings", json={"input": [{"image": image}]}))
    assert said in error["message"]
    assert error["param"] == "input[0]"


def test_the_page_is_part_of_a_service_of_images(images, place):
    page = images.get("/", params={"text": "a red image"})
    assert page.status_code == 200
    assert re.findall(r'<span class="name">(.*?)</span>', page.text)[0] == "red.png"
    assert images.get("/image/0").headers["content-type"] == "image/jpeg"
    for path in ("/image/../secret.png", "/image/..%2Fsecret.png", "/secret.png", "/index/index.json"):
        answer = images.get(path)
        assert answer.status_code == 404
        assert "<!doctype html>" in answer.text.lower()
    assert refusal(images.get("/v1/nowhere"), 404)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "query"),
        ({"query": "a", "image": "b"}, "query"),
        ({"query": "a", "top_k": 0}, "top_k"),
        ({"query": ""}, "query"),
    ],
)
def test_a_wrong_search_is_named_by_its_field(images, given, field):
    assert refusal(images.post("/search", json=given))["param"] == field


def test_without_an_index_search_says_how(client):
    assert "--index INDEX" in refusal(client.post("/search", json={"query": "a"}), 404)["message"]


# Many at once.


class Slow:
    """Holds the model until it may go on."""

    def __init__(self, encoder, monkeypatch) -> None:
        self.may, self.sizes = threading.Event(), []
        encode = type(encoder).encode

        def slow(model, texts, **options):
            self.sizes.append(len(texts))
            assert self.may.wait(60)
            return encode(model, texts, **options)

        monkeypatch.setattr(type(encoder), "encode", slow)

    def busy(self, number: int = 1) -> None:
        while len(self.sizes) < number:
            time.sleep(0.01)


def test_what_comes_together_is_encoded_together_and_beyond_the_queue_refused(encoder, monkeypatch):
    slow, texts = Slow(encoder, monkeypatch), [f"{text} again" for text in TEXTS]
    client = TestClient(build_service(encoder, ServiceOptions(name="bert", most_waiting=10)), base_url=HOME)

    def ask(text):
        return client.post("/v1/embeddings", json={"input": text})

    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(ask, "first")
        slow.busy()
        waiting = [pool.submit(ask, text) for text in texts]
        while client.get("/health").json()["waiting"] < 10:
            time.sleep(0.01)
        answer = ask("one more")
        assert refusal(answer, 429)["code"] == "rate_limit_exceeded"
        assert answer.headers["retry-after"] == "1"
        slow.may.set()
        found = [rows(future.result(60))[0] for future in waiting]
        rows(first.result(60))
    assert slow.sizes[:2] == [1, 10]
    np.testing.assert_allclose(found, encoder.encode(texts), atol=1e-6)
    shown = client.get("/metrics").text
    assert 'mcse_requests_total{route="/v1/embeddings",status="200"} 11.0' in shown
    assert 'mcse_requests_total{route="/v1/embeddings",status="429"} 1.0' in shown
    assert "mcse_texts_total 11.0" in shown
    assert f"mcse_tokens_total {sum(encoder.count_tokens(['first', *texts]))}.0" in shown
    assert 'mcse_request_seconds_count{route="/v1/embeddings"} 12.0' in shown
    assert "process_resident_memory_bytes" in shown


def test_a_client_that_leaves_is_forgotten(encoder, live, monkeypatch):
    slow = Slow(encoder, monkeypatch)

    def send(text) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", live.port))
        body = json.dumps({"input": text}).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection

    def waiting() -> int:
        return live.openai.get(f"http://127.0.0.1:{live.port}/health", cast_to=object)["waiting"]

    first = send("first")
    slow.busy()
    left = send(["left"] * 70)
    while waiting() < 70:
        time.sleep(0.01)
    left.close()
    stays = send("stays")
    time.sleep(0.3)
    slow.may.set()
    for connection in (first, stays):
        connection.settimeout(60)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
    assert slow.sizes == [1, 1]
    assert waiting() == 0


def test_a_stop_lets_what_is_being_answered_end(encoder, monkeypatch):
    slow = Slow(encoder, monkeypatch)
    served = Live(build_service(encoder, ServiceOptions(name="bert")), monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(served.openai.embeddings.create, model="bert", input=text) for text in TEXTS[:3]]
        slow.busy()
        time.sleep(0.3)
        stop = threading.Thread(target=served.stop)
        stop.start()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port), timeout=1)
        slow.may.set()
        for future, text in zip(asked, TEXTS, strict=False):
            found = future.result(60).data[0].embedding
            np.testing.assert_allclose(found, encoder.encode([text])[0], atol=1e-6)
    stop.join(60)


# The command.


def test_the_command_says_what_it_serves(place, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(hardening, "listen", lambda app, **where: started.append((app, where)))
    monkeypatch.setenv("MCSE_TOKEN", "from the environment")
    bert, flags = str(place / "bert"), ["--pooling", "mean"]
    assert main(["serve", bert, *flags, "--port", "9000"]) == 0
    captured = capsys.readouterr()
    assert "bert, width 32: http://127.0.0.1:9000/v1/embeddings" in captured.out
    assert captured.err == ""
    client = TestClient(started[0][0], base_url="http://127.0.0.1:9000")
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 401
    headers = {"authorization": "Bearer from the environment"}
    assert client.post("/v1/embeddings", json={"input": "a", "model": bert}, headers=headers).status_code == 200
    monkeypatch.delenv("MCSE_TOKEN")
    assert main(["serve", bert, *flags, "--host", "0.0.0.0"]) == 0
    assert "ATTENTION: 0.0.0.0 is no loopback address; there is no token" in capsys.readouterr().err
    assert main(["serve", str(place / "colours"), "--index", str(place / "index")]) == 0
    assert "an index of 6" in capsys.readouterr().out
    assert started[0][1] == {"host": "127.0.0.1", "port": 9000}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "0"], "--port must be from 1 to 65535"),
        (["--most-waiting", "0"], "--most-waiting must be at least 1"),
        (["--token", " "], "--token (MCSE_TOKEN) is empty"),
        (["--pooling", "mean", "--index", "nowhere"], "is not an index"),
        ([], "does not say how its embeddings are pooled"),
    ],
)
def test_wrong_arguments_are_named(place, capsys, flags, said):
    assert main(["serve", str(place / "bert"), *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_index_of_another_model_is_refused(place, encoder, capsys):
    build_colour_model(place / "brighter", brightness=2.0)
    assert main(["serve", str(place / "brighter"), "--index", str(place / "index")]) == 2
    assert "is another model now" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "mcse.search.service")
    assert main(["serve", str(place / "bert"), "--pooling", "mean"]) == 2
    assert "pip install 'mcse[serve]'" in capsys.readouterr().err
