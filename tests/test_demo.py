"""The demo: its answers as HTML, its limits, what is left on the disk, and the page in a browser."""

import base64
import gc
import html
import io
import json
import os
import re
import shutil
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_plugins import cli, demo, demo_answer, demo_uploads
from ser_plugins.errors import DataError, OptionError, PluginError
from ser_plugins.recognition import Recognition, Segment, Word

CALM, TENSE = {"calm": 0.8, "tense": 0.2}, {"calm": 0.3, "tense": 0.7}
SAID = Recognition(
    "ONE TWO THREE", "calm", {"calm": 0.55, "tense": 0.45},
    (Word("ONE", 0.1, 0.4), Word("TWO", 0.45, 0.9), Word("THREE", 1.1, 1.9)),
    (Segment(0.0, 0.5, "calm", CALM), Segment(0.5, 1.0, "calm", CALM), Segment(1.0, 2.0, "tense", TENSE)), 2.0)


@pytest.fixture(scope="module", autouse=True)
def _left_open():
    """What Gradio's and the browser's loops leave open is collected here, and not in another module's tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def listen(samples):
    """A recogniser whose text tells what it was given."""
    duration = len(samples) / 16000
    middle = duration / 2
    track = (Segment(0.0, middle, "calm", CALM), Segment(middle, duration, "tense", TENSE))
    return Recognition(f"HEARD {len(samples)}", "calm", {"calm": 0.55, "tense": 0.45},
                       (Word("HEARD", 0.0, middle), Word(str(len(samples)), middle, duration)), track, duration)


@pytest.fixture
def upload(tmp_path, tone):
    """A file as `ser demo` keeps one: alone in a folder."""
    return tone(tmp_path / "uploads" / "one" / "my voice.wav", seconds=0.5)


def text_of(page):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def downloads(page):
    """File name → content."""
    found = re.findall(r'<a download="([^"]*)" href="data:[^,]*,([^"]*)"', page)
    return {html.unescape(name): base64.b64decode(content).decode() for name, content in found}


def test_an_answer_shows_words_under_the_emotion_of_their_time():
    text = text_of(demo_answer.render("a.wav", np.zeros(32000, np.float32), SAID))
    assert "calm: ONE TWO tense: THREE" in text
    assert "calm 55.0 %" in text
    assert "tense 45.0 %" in text


def test_downloads_are_what_the_recognition_writes():
    files = downloads(demo_answer.render("dir/a.b.wav", np.zeros(32000, np.float32), SAID))
    assert files == {"a.b.json": SAID.to_json(), "a.b.csv": SAID.to_dataframe().to_csv(index=False),
                     "a.b.TextGrid": SAID.to_textgrid(), "a.b.srt": SAID.to_srt()}


def test_the_recording_is_in_the_answer():
    samples = np.sin(np.arange(8000) / 10).astype(np.float32) / 2
    content = re.search(r'<audio[^>]* src="data:audio/wav;base64,([^"]*)"',
                        demo_answer.render("a.wav", samples, SAID)).group(1)
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == 16000
    np.testing.assert_allclose(heard, samples, atol=1e-4)


@pytest.mark.parametrize("part", ["name", "text", "label"])
def test_what_comes_from_outside_is_escaped(part):
    evil = "<img/src=x/onerror=alert(1)>'\""
    said = Recognition("X", evil, {evil: 1.0}, (Word("X", 0.0, 0.5),), (Segment(0.0, 1.0, evil, {evil: 1.0}),), 1.0)
    said = {"name": SAID, "text": Recognition(evil, "calm", {"calm": 1.0}, duration=1.0), "label": said}[part]
    page = demo_answer.render(evil if part == "name" else "a.wav", np.zeros(16000, np.float32), said)
    assert "<img/src=x" not in page
    assert "&lt;img/src=x" in page


def test_silence_is_said_to_hold_no_word():
    said = Recognition("", "calm", CALM, (), (Segment(0.0, 1.0, "calm", CALM),), 1.0)
    assert "No word was understood." in text_of(demo_answer.render("a.wav", np.zeros(16000, np.float32), said))


def test_words_without_times_have_the_emotion_of_the_whole():
    said = Recognition("ONE TWO", "calm", CALM, duration=1.0)
    assert [(label, [word["text"] for word in words]) for label, words in demo_answer.runs(said)] == [
        ("calm", ["ONE", "TWO"])]


@pytest.mark.parametrize(("start", "end"), [(0.1, 0.4), (0.75, 1.25), (0.9, 2.0)])
def test_a_words_probabilities_are_the_mean_of_its_time(start, end):
    times = np.arange(start, end, 1e-4) + 5e-5  # the same by sampling
    expected = np.mean([next(one for one in SAID.track if one.start <= time < one.end).probabilities["calm"]
                        for time in times])
    assert demo_answer.emotion_at(SAID, start, end)["calm"] == pytest.approx(expected, abs=1e-3)


def test_a_word_beyond_the_track_has_the_probabilities_of_the_whole():
    assert demo_answer.emotion_at(SAID, 2.1, 2.2) == SAID.probabilities


@pytest.mark.parametrize("duration", [0.02, 0.3, 1.0, 3.1, 59.9, 60.0])
def test_ticks_are_few_and_even(duration):
    places, texts = zip(*demo_answer.ticks(duration), strict=True)
    assert 3 <= len(places) <= demo_answer.TICKS
    assert len(set(texts)) == len(texts)
    assert 0 <= min(places) <= max(places) <= 1
    steps = [after - before for before, after in pairwise(places)]
    assert np.ptp(steps) < 1e-9


@pytest.mark.parametrize("count", [10, 16000, 16000 * 60])
def test_a_spectrogram_shows_a_tone_where_it_is(count):
    image = matplotlib_image(demo_answer.spectrogram(np.sin(2 * np.pi * 2000 * np.arange(count) / 16000)))
    assert image.shape[0] == 257
    assert image.shape[1] <= demo_answer.COLUMNS
    if count > demo_answer.WINDOW:
        row = image[:, image.shape[1] // 2, 0].argmax()  # cividis: red grows with the level
        assert 8000 * (256 - row) / 256 == pytest.approx(2000, abs=40)


def matplotlib_image(content):
    import matplotlib.image

    return matplotlib.image.imread(io.BytesIO(content))


def test_an_upload_is_gone_before_it_is_recognised(upload):
    seen = []

    def look(samples):
        seen.append((len(samples), upload.parent.exists()))
        return SAID

    page = demo.answer(upload, look)
    assert seen == [(8000, False)]
    assert "my voice.wav, 0.5 s" in text_of(page)
    assert upload.parents[1].is_dir()


def spoil(path, kind, tone):
    if kind == "no audio":
        path.write_text("no audio")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-4000])
    elif kind == "long":
        tone(path, seconds=60.1, rate=8000)
    else:
        soundfile.write(path, np.full(8000, np.nan, np.float32), 16000, subtype="FLOAT")


@pytest.mark.parametrize(("kind", "told"), [
    ("no audio", r"not audio that libsndfile can read .* send speech in WAV"), ("empty", r"0 bytes"),
    ("truncated", "truncated"), ("long", r"is 60\.1 s long, and 60 s are allowed"),
    ("not finite", "8000 of 8000 samples are not finite")])
def test_a_bad_file_is_told_and_removed(upload, tone, kind, told):
    spoil(upload, kind, tone)
    page = demo.answer(upload, listen)
    assert 'role="alert"' in page
    assert re.search(told, text_of(page))
    assert "my voice.wav" in page
    assert str(upload.parent) not in page  # nobody learns where it lay
    assert not upload.parent.exists()


def test_more_samples_than_a_page_should_decode(upload, monkeypatch):
    monkeypatch.setattr(demo, "MAX_SAMPLES", 7999)
    assert "too much for this page" in demo.answer(upload, listen)


def test_what_the_recogniser_refuses_is_told(upload):
    def refuse(samples):
        raise DataError("too short")

    assert "too short" in text_of(demo.answer(upload, refuse))


@pytest.mark.parametrize("path", ["/etc/passwd", "{folder}", "{folder}/one", "{folder}/one/two/x.wav", "x.wav",
                                  "{folder}/one/../../x.wav", "{folder}/../../etc/passwd", "http://127.0.0.1/x/y.wav"])
def test_only_uploads_are_opened(path, tmp_path):
    with pytest.raises(OptionError, match="no paths or addresses"):
        demo_uploads.uploaded(path.format(folder=tmp_path), tmp_path)


def test_an_upload_is_an_upload(upload):
    assert demo_uploads.uploaded(str(upload), upload.parents[1]) == upload


@pytest.mark.parametrize(("name", "kept"), [
    ("a.wav", "a.wav"), ("../../etc/passwd", "passwd"), ("C:\\x\\a.wav", "a.wav"), ("", "recording"),
    ("...", "recording"), ("a\n\0b.wav", "ab.wav"), ("ä" * 300 + ".wav", "ä" * 40 + ".wav"), ("..", "recording")])
def test_a_name_of_a_user_stays_in_the_folder(name, kept, tmp_path):
    path = demo_uploads.place(tmp_path, name)
    assert (path.name, path.parents[1]) == (kept, tmp_path)
    path.write_bytes(b"")


def test_forgotten_uploads_are_removed(tmp_path):
    for name in ("old", "new"):
        demo_uploads.place(tmp_path, f"{name}.wav").write_bytes(b"x")
    folders = {path.name: folder for folder in tmp_path.iterdir() for path in folder.iterdir()}
    before = time.time() - 100
    os.utime(folders["old.wav"], (before, before))
    demo_uploads.clear(tmp_path, 50)
    assert list(tmp_path.iterdir()) == [folders["new.wav"]]


def test_a_port_that_is_taken_is_told():
    with demo.listen_at("127.0.0.1", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OptionError, match="choose others by --host and --port"):
            demo.listen_at("127.0.0.1", bound.getsockname()[1])


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 99999), ("192.0.2.1", 0)])
def test_an_address_that_is_none_is_told(host, port):
    with pytest.raises(OptionError, match=f"host {host}, port {port}: "):
        demo.listen_at(host, port)


@pytest.mark.parametrize(("words", "names"), [
    ((), {"127.0.0.1:{port}"}),
    (("--host", "127.1", "--name", "demo.example.org"), {"127.1:{port}", "127.0.0.1:{port}", "demo.example.org"})])
def test_the_page_knows_the_names_that_it_was_given(monkeypatch, words, names):
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is missing: pip install 'ser_plugins[demo]'")
    told = []
    monkeypatch.setattr(demo, "_gradio", lambda: None)
    monkeypatch.setattr(demo, "listener", lambda model, device: listen)
    monkeypatch.setattr(demo, "build", lambda listen, folder, note, names: told.extend(names))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: told.append(sockets[0].getsockname()[1]))
    assert cli.main(["demo", "--port", "0", *words]) == 0
    assert set(told[:-1]) == {name.format(port=told[-1]) for name in names}


def test_without_a_model_the_one_that_ships_answers():
    said = demo.listener(None)(np.sin(np.arange(32000) / 10).astype(np.float32) / 2)
    assert list(said.probabilities) == ["anger", "happiness", "neutral", "sadness"]
    assert said.track


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert "pip install 'ser_plugins[demo]'" in capsys.readouterr().err


def test_examples_are_spoken_where_there_is_espeak(monkeypatch):
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is missing: pip install 'ser_plugins[synthetic]'")
    assert demo.samples_there_are() == ["anger", "happiness", "neutral", "sadness"]
    assert len(demo.sample("anger")) > 16000
    monkeypatch.setattr("ser_plugins.corpora.synthetic.require_espeak", fail)
    assert demo.samples_there_are() == []


def fail():
    raise PluginError("espeak-ng is not installed")


# The running page. Gradio, pandas and uvicorn warn of each other's novelties.

needs_gradio = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def page():
    """Address and upload folder of a running demo with the recogniser `listen`."""
    pytest.importorskip("gradio", reason="gradio is missing: pip install 'ser_plugins[demo]'")
    import uvicorn

    with demo.listen_at("127.0.0.1", 0) as bound, demo_uploads.waiting_room() as folder:
        app = demo.build(listen, folder, "a note", ["Demo.example.org"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", folder
        server.should_exit = True
        thread.join(timeout=20)
        assert not folder.exists()  # the end of the application removes it


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def uploads(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def ask(client, path):
    """The event that a call of the page's function ends with, and what comes with it."""
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = client.post("/gradio_api/call/recognise", json=data).raise_for_status().json()["event_id"]
    lines = client.get(f"/gradio_api/call/recognise/{event}").text.splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    return kinds[-1], json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))


@pytest.fixture
def client(page):
    import httpx

    with httpx.Client(base_url=page[0], timeout=60, trust_env=False) as client:
        yield client


@needs_gradio
def test_fifty_at_once_get_each_their_own_answer(page, client, tone, tmp_path):
    same = tone(tmp_path / "same.wav", seconds=0.7).read_bytes()
    contents = [tone(tmp_path / f"{count}.wav", seconds=0.3 + count / 100).read_bytes() for count in range(30)]
    contents += [same] * 10
    expected = [f"calm: HEARD tense: {round((0.3 + count / 100) * 16000)} " for count in range(30)]
    expected += ["calm: HEARD tense: 11200 "] * 10
    contents += [b"no audio %d" % count for count in range(5)] + [b""] * 2 + [same[:-5000]] * 3
    expected += ["not audio that libsndfile can read"] * 5 + ["0 bytes"] * 2 + ["truncated"] * 3

    def one(content):
        [path] = client.post(demo_uploads.UPLOAD, files={"files": ("x.wav", content)}).raise_for_status().json()
        return ask(client, path)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, contents))
    assert [kind for kind, _ in answers] == ["complete"] * 50
    assert [text for text, (_, answer) in zip(expected, answers, strict=True) if text not in text_of(answer[0])] == []
    assert uploads(page[1]) == []


@needs_gradio
@pytest.mark.parametrize("path", [__file__, "http://127.0.0.1:9/x.wav"])
def test_files_and_addresses_that_were_not_uploaded_are_refused(client, path):
    kind, _ = ask(client, path)
    assert kind == "error"
    assert Path(__file__).exists()


@needs_gradio
@pytest.mark.parametrize(("request_", "status", "told"), [
    ({"files": {"files": ("x.wav", b"0" * (demo_uploads.MAX_BYTES + 3000))}}, 413, "25.0 MB, and 25 are allowed"),
    ({"files": {"other": ("x.wav", b"x")}}, 400, "no file named 'files'"),
    ({"files": [("files", ("x.wav", b"x")), ("files", ("y.wav", b"x"))]}, 400, "not a form with one file"),
    ({"content": iter([b"x"])}, 411, "length"),
    ({"content": b"x"}, 400, "no file named 'files'"),
    ({"files": {"files": ("x.wav", b"x")}, "headers": {"Origin": "http://elsewhere.example"}}, 403, "itself only")])
def test_uploads_are_bounded(page, client, request_, status, told):
    answer = client.post(demo_uploads.UPLOAD, **request_)
    assert (answer.status_code, told in answer.text) == (status, True), answer.text
    assert uploads(page[1]) == []


@needs_gradio
@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1:{port}", 200), ("LOCALHOST:{port}", 200), ("demo.example.org", 200), ("127.0.0.1:1", 403),
    ("elsewhere.example:{port}", 403), ("localhost.elsewhere.example:{port}", 403), ("demo.example.org:1", 403),
    ("", 403)])
def test_the_page_answers_to_its_own_names(page, client, host, status):
    host = host.format(port=client.base_url.port)
    headers = {"Host": host, "Origin": f"http://{host}"}  # a name that was given this machine's address: they agree
    answer = client.get("/gradio_api/startup-events", headers=headers)
    assert (answer.status_code, "--name" in answer.text) == (status, status == 403), answer.text
    upload = client.post(demo_uploads.UPLOAD, files={"other": ("x.wav", b"x")}, headers=headers)
    assert (upload.status_code, uploads(page[1])) == (400 if status == 200 else 403, [])


@needs_gradio
def test_a_full_folder_takes_no_more(page, client, monkeypatch):
    monkeypatch.setattr(demo_uploads, "QUEUE", 0)
    assert client.post(demo_uploads.UPLOAD, files={"files": ("x.wav", b"x")}).status_code == 503


@needs_gradio
def test_nothing_but_the_page_is_served(client):
    assert client.get(f"/gradio_api/file={__file__}").status_code == 403
    assert client.get("/docs").status_code == 404
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = rgb => { const [r, g, b] = rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 :
    ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = element => { for (let e = element; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c.slice(0, 3); }
    return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('.gradio-container *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || ['STYLE', 'SCRIPT'].includes(e.tagName)) continue;
    const pair = [light(rgba(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + .05) / (pair[1] + .05);
    if (ratio < 4.5) poor.push(e.textContent.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return poor; }"""


@needs_gradio
def test_the_page_in_a_browser(page, browser, tone, tmp_path):
    address, folder = page
    asked, failed = [], []
    tab = browser.new_page(viewport={"width": 1200, "height": 844}, color_scheme="light")
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.goto(address)
    field = "#recording input[type=file]"
    tab.wait_for_selector(field, state="attached")

    tab.set_input_files(field, tone(tmp_path / "${1+1} {{2}} <b>.wav", seconds=1.0))
    tab.wait_for_selector("article.ser")
    assert [text.strip() for text in tab.locator(".run").all_inner_texts()] == ["calm: HEARD", "tense: 16000"]
    assert "${1+1} {{2}} <b>.wav, 1.0 s" in tab.inner_text(".ser .name")
    assert uploads(folder) == []
    with tab.expect_download() as download:
        tab.locator(".ser nav a").first.press("Enter")
    assert json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["text"] == "HEARD 16000"
    focus = "(style => style.outlineStyle + ' ' + style.outlineColor)(getComputedStyle(document.activeElement))"
    assert tab.evaluate(focus) == "solid rgb(0, 114, 178)"  # 5.2:1 on white
    assert tab.evaluate(CONTRAST) == []

    tab.set_viewport_size({"width": 390, "height": 844})
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_selector("body.dark")
    tab.wait_for_timeout(500)  # colours fade over
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate(focus) == "solid rgb(124, 196, 240)"
    assert tab.evaluate(CONTRAST) == []

    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    tab.set_input_files(field, bad)
    tab.wait_for_selector(".ser-error")
    assert "bad.wav: not audio" in tab.inner_text(".ser-error")
    assert tab.evaluate(CONTRAST) == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert failed == []
    tab.close()
