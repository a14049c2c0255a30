"""The viewer's server takes nothing but what it must, tells nobody else, and ends when it is told to."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from urllib.parse import quote, urlsplit

import pytest
from starlette.testclient import TestClient

from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.store import Study
from mnemoscope.viewer.guard import HEADERS
from mnemoscope.viewer.server import create_app
from mnemoscope.viewer.serving import serve
from studies import score_two
from viewed_studies import ADDRESS, cell_of, client_of

LIST = "/api/sequences?model=0&context=8&continuation=5"
PATHS = [
    "/",
    "/assets/page.css",
    "/assets/view.js",
    "/api/study",
    LIST,
    "/api/count",
    "/api/sequences/member/3",
    "/no/such",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two models over 11 members and 5 of a control."""
    return score_two(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(study):
    """A client of its server."""
    return client_of(study)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers(client, path):
    """Each answer, errors among them, forbids foreign scripts, frames, sniffing and reading by other sites."""
    for answer in (client.get(path), client.head(path), client.post(path), client.get(path, headers={"host": "evil"})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (path, answer.status_code, name)
        assert "access-control-allow-origin" not in answer.headers
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert "default-src 'none'" in HEADERS["content-security-policy"]
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"])
def test_own_names_are_answered(client, host):
    """The names of this machine with the server's port are answered."""
    assert client.get("/api/study", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1",
        "127.0.0.1:80",
        "localhost",
        "127.0.0.1.evil.example:8000",
        "",
        "127.0.0.1:8000@evil.example",
        "0.0.0.0:8000",
        "[::1]",
        "127.0.0.1:8000, evil.example",
        "2130706433:8000",
    ],
)
def test_other_names_are_refused(client, host):
    """A request under any other name, as a page elsewhere could send after rebinding its own, gets 400 and no facts."""
    for path in PATHS:
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("Host: ")
        assert "tiny" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_it_only_reads(client, method):
    """Each method but GET and HEAD gets 405 and the allowed two."""
    for path in PATHS:
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_other_sites_pages_get_no_facts(client):
    """What a browser marks as asked for by another site is refused at the API; its own page and the bar are not."""
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client.get("/api/study", headers={"sec-fetch-site": site}).status_code == status
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../store.py",
        "/assets/%2e%2e/%2e%2e/store.py",
        "/assets/..%2f..%2fstore.py",
        "/assets/page.html.j2",
        "/assets//etc/passwd",
        "/assets/view.html",
        "//etc/passwd",
        "/study.toml",
        "/api/sequences/member",
        "/api/sequences/member/3/..",
        "/api/sequences/member/999",
        "/api/sequences/control/7",
    ],
)
def test_what_is_not_there_is_404(client, path):
    """No path leads to a file but the fixed ones, and an id that was not scored is not there."""
    answer = client.get(ADDRESS + path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": ""}, "model: missing"),
        ({"model": "2"}, "model: '2' given; expected a whole number from 0 to 1"),
        ({"model": "-1"}, "model: '-1' given"),
        ({"model": "٣"}, "model: '\\u0663' given"),
        ({"model": "1e0"}, "model: '1e0' given"),
        ({"context": "5"}, "context: '5' given; expected one of 4, 8"),
        ({"context": "08"}, "context: '08' given"),
        ({"continuation": "5 OR 1=1"}, "continuation: '5 OR 1=1' given"),
        ({"group": "nobody"}, "group: 'nobody' given; expected one of member, control"),
        ({"order": "id; DROP TABLE scores"}, "order: 'id; DROP TABLE scores' given"),
        ({"order": "window_hash"}, "order: 'window_hash' given; expected one of id, matched, log_probability"),
        ({"matched_low": "4", "matched_high": "2"}, "matched_low: 4 given; expected matched_high, which is 2, or less"),
        ({"matched_low": "6"}, "matched_low: '6' given; expected a whole number from 0 to 5"),
        ({"copies_high": "9" * 30}, "copies_high: '" + "9" * 30 + "' given"),
        ({"copies_low": "1.5"}, "copies_low: '1.5' given"),
        ({"text": "x" * 201}, "text: 201 characters given; expected 200 or fewer"),
        ({"colour": "red"}, "'colour': no such parameter"),
        ({"</script>": "1"}, "'</script>': no such parameter"),
        ({"cursor": "member:0:0:0:none' OR 1"}, "cursor: "),
        ({"cursor": "member:0:99999999999999999999:0:none"}, "cursor: "),
        ({"cursor": "member:0:0:0:nan"}, "cursor: "),
        ({"cursor": "member:0:0:0:1e999"}, "cursor: "),
        ({"cursor": "member:1:0:0:none"}, "no such shard"),
        ({"cursor": "../../etc:0:0:0:none"}, "cursor: "),
        ({"cell": "{"}, "cell: '{' given; expected JSON"),
        ({"cell": "[" * 3000}, "expected JSON"),
        ({"cell": "[]"}, "expected a JSON object"),
        ({"cell": "x" * 4001}, "cell: 4001 characters given"),
        ({"cell": "{}"}, "cell.group: this field is required"),
    ],
)
def test_what_cannot_be_meant_is_told(client, parameters, words):
    """A parameter that cannot be meant gets 400 with what came and what is allowed, as ASCII, and nothing is listed."""
    given = {"model": "0", "context": "8", "continuation": "5"} | parameters
    for path in ("/api/sequences", "/api/count"):
        if path == "/api/count" and "no such shard" in words:
            continue
        answer = client.get(path, params=given)
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
        assert words in answer.json()["error"]
        assert answer.json()["error"].isascii()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model_from", "x' OR 'a' = 'a", "cell.model_from: "),
        ("model_to", 1, "cell.model_to: "),
        ("context_to", 5, "cell.context_to: '5' given"),
        ("continuation_from", True, "cell.continuation_from: "),
        ("from", [0, 9], "cell.from: [0, 9] given; expected [low, high] within 0 to 5"),
        ("to", [3, 1], "cell.to: [3, 1] given"),
        ("to", ["0", "1"], "cell.to.0: "),
        ("group", "all", "cell.group: "),
    ],
)
def test_a_cell_is_checked_part_by_part(client, study, name, value, words):
    """Each part of a cell that is not of this study is told by its name."""
    cell = json.loads(cell_of(study, before=(0, 8, 5), after=(1, 8, 5), matched_from=[0, 5], matched_to=[0, 5]))
    assert client.get(f"{LIST}&cell={quote(json.dumps(cell))}").status_code == 200
    bad = client.get(f"{LIST}&cell={quote(json.dumps(cell | {name: value}))}")
    assert bad.status_code == 400
    assert words in bad.json()["error"]


def test_a_parameter_given_twice_is_refused(client):
    """Which of two values counts is not guessed."""
    answer = client.get(f"{LIST}&model=1")
    assert (answer.status_code, answer.json()) == (400, {"error": "model: given twice; expected once"})


@pytest.mark.parametrize("path", ["/api/sequences/nobody/3", "/api/sequences/member/x", "/api/sequences/member/-1"])
def test_sequences_have_a_group_and_a_number(client, path):
    """A sequence under another group's name, or no number, is refused."""
    assert client.get(path).status_code == 400


def test_the_unforeseen_is_answered(study, monkeypatch):
    """An error that nobody thought of is told by its name alone, with the headers; the server goes on."""
    monkeypatch.setattr("mnemoscope.viewer.server.tell_study", lambda _library: 1 / 0)
    client = TestClient(create_app(study), base_url=ADDRESS, raise_server_exceptions=False)
    answer = client.get("/api/study")
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "something unforeseen went wrong (ZeroDivisionError)"},
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(LIST).status_code == 200


def test_the_page_has_no_code_of_its_own(client):
    """The page's scripts and styles are files of this server's, each there, and none stands in its text."""
    page = client.get("/").text
    found = re.findall(r'(?:src|href)="(/[^"]+)"', page)
    assert [client.get(path).status_code for path in found] == [200] * 6
    assert not re.findall(r"<script>|<style|style=|\son\w+=|https?://", page)
    assert client.get("/assets/view.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_a_study_without_a_run_is_refused(tmp_path):
    """Where nothing has been scored there is nothing to view."""
    config = StudyConfig(
        models=(ModelConfig(source="m"),), corpus=CorpusConfig(path="c"), contexts=(4,), continuations=(4,)
    )
    with pytest.raises(StoreError, match="no model has been scored"):
        create_app(Study(folder=tmp_path, config=config, runs={}))


def test_a_port_that_cannot_be_had_is_told(study):
    """A port in use, or none at all, is one line with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for number, words in (
            (port, f"port: {port} is in use; choose another one, or --port 0"),
            (70000, "expected 1 to"),
        ):
            with pytest.raises(ConfigError, match=words):
                serve(study, port=number, redact=False, open_browser=False, say=print)


def test_without_the_extra_it_says_what_to_install(study):
    """Where a library of the extra is missing the verb is one line that names it, and exits with 2."""
    code = "import sys; sys.modules['duckdb'] = None; from mnemoscope.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "view", str(study.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "mnemoscope: view: duckdb is not installed; expected it: pip install 'mnemoscope[view]'\n"


def listen_for_interrupts():
    """Undo what a background shell does, which has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def process(study):
    """`mnemoscope view` as a process, and its address."""
    command = [sys.executable, "-m", "mnemoscope", "view", str(study.folder), "--no-browser"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_for_interrupts,  # noqa: PLW1509  no thread is running here
    )
    try:
        line = running.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line + running.stderr.read()
        yield running, urlsplit(address[0])
    finally:
        running.kill()
        running.wait()


def ask(address, path, **headers):
    """Status and body of a GET on a connection of its own."""
    connection = HTTPConnection(address.hostname, address.port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_process_serves_and_ends_at_ctrl_c(process):
    """It says where it is, answers there and on no other interface, and at Ctrl-C ends at once, without a word."""
    running, address = process
    assert ask(address, "/")[0] == 200
    assert ask(address, LIST)[0] == 200
    assert ask(address, "/", Host="evil.example")[0] == 400
    open_connection = HTTPConnection(address.hostname, address.port)
    open_connection.connect()
    with socket.socket() as other, pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        other.settimeout(5)
        other.connect(("127.0.0.2", address.port))
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (0, "", "")
    assert time.monotonic() - began < 20  # it does not wait for the connection that is open


def test_many_ask_at_once(process):
    """Forty requests from eight threads get the same answers as one after the other."""
    _, address = process
    paths = [LIST, f"{LIST}&order=matched", "/api/study", "/api/sequences/member/3", f"{LIST}&group=control"]
    expected = {path: ask(address, path) for path in paths}
    differing = []

    def work():
        differing.extend(path for path in paths if ask(address, path) != expected[path])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(status == 200 for status, _ in expected.values())
    assert differing == []
