"""``ser demo``: a page on which anyone tries a model on their own voice.

The page is Gradio's, the answer's HTML ours (`ser_plugins.demo_answer`). Three things differ from a usual Gradio page:

- Nothing of a recording stays on the disk. Gradio names an upload by a hash of its content, so that who removes one
  removes that of a second user too; here each upload has a folder of its own, is removed when it has been read into
  memory, before anything is recognised, and after some minutes where nobody asked for it.
- Nothing is fetched from elsewhere. A content security policy forbids it to the browser, and an address in place of
  an upload is refused, which Gradio's server would fetch.
- What is sent is bounded: bytes, seconds, samples, waiting files, waiting requests.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_plugins import audio, demo_answer, demo_uploads
from ser_plugins.audio import SAMPLE_RATE
from ser_plugins.errors import DataError, OptionError, PluginError, SerError

if TYPE_CHECKING:
    from ser_plugins.recognition import Recognition

Listener = Callable[[np.ndarray], "Recognition"]  # samples [samples] at 16 kHz → what was heard

MAX_SECONDS = 60.0  # of a recording
MAX_SAMPLES = 50_000_000  # of all channels: compressed files may hold many times their size
POLICY = "; ".join((
    "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "media-src 'self' data: blob:", "font-src 'self' data:",
    "connect-src 'self' data: blob:", "worker-src 'self' blob:", "base-uri 'self'", "form-action 'self'",
    "frame-ancestors 'self'"))
INTRODUCTION = f"""# How was it said?
Record or upload up to {MAX_SECONDS:g} seconds of speech in WAV, FLAC, OGG, MP3 or AIFF. The file is removed before the
answer is shown, and nothing is sent elsewhere. The emotion is a model's guess from the sound: decide nothing about
people by it."""
FIRST_TRIALS = """This is the model for first trials, which comes with `ser_plugins`: its emotions are those of eight
German actors, its transcripts those of a small English recogniser, and voices of machines, as in the examples, are
strange to it. `ser demo --model RUN_FOLDER` shows yours."""


def listener(model: str | Path | None, device: str = "cpu") -> Listener:
    """What hears the recordings.

    Arguments
    ---------
    model : str | Path | None
        As of `EmotionRecognizer.from_hparams`; None is the model that ships.
    device : str
        ``cpu``, ``cuda``, …

    Returns
    -------
    Listener
    """
    from ser_plugins.inference import EmotionRecognizer
    from ser_plugins.values import check_device

    check_device(device)
    recognizer = EmotionRecognizer.from_hparams(source=model, run_opts={"device": device})
    return lambda samples: recognizer.track_file(samples, rate=SAMPLE_RATE)


def answer(path: str | Path, listen: Listener) -> str:
    """HTML of what was heard in an uploaded file, or of what is wrong with it; the file is gone afterwards.

    Arguments
    ---------
    path : str | Path
        The file, alone in a folder of its own, which is removed with it.
    listen : Listener
        Is called when the file has been removed.
    """
    path = Path(path)
    try:
        try:
            samples = read(path)
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)
        return demo_answer.render(path.name, samples, listen(samples))
    except SerError as error:
        return demo_answer.alert(str(error).replace(str(path), path.name))


def read(path: Path) -> np.ndarray:
    """Samples of a file that is not too long, ``[samples]``, 16 kHz.

    Raises
    ------
    DataError
        As `audio.read`; or the file holds more than `MAX_SECONDS` or `MAX_SAMPLES`.
    """
    try:
        about = audio.info(path)
    except DataError as error:
        raise DataError(f"{error}; send speech in WAV, FLAC, OGG, MP3 or AIFF, or record it here") from error
    if about.duration > MAX_SECONDS:
        raise DataError(f"{path} is {about.duration:.1f} s long, and {MAX_SECONDS:g} s are allowed here: cut it, or "
                        "use the command ser predict, which takes any length")
    if about.duration * about.sample_rate * about.channels > MAX_SAMPLES:
        raise DataError(f"{path} holds {about.channels} channels at {about.sample_rate} Hz, too much for this page: "
                        "convert it to one channel at 16000 Hz")
    return audio.read(path)


@cache
def sample(emotion: str) -> np.ndarray:
    """A sentence of the synthetic corpus in an emotion, said by the speaker that training leaves out by default."""
    from ser_plugins.corpora import synthetic

    wanted = f"S01_{emotion}_000"
    utterance = next(one for one in synthetic.Synthetic().plan(Path()) if one.id == wanted)
    return synthetic.render(utterance, 0, synthetic.require_espeak())


def samples_there_are() -> list[str]:
    """Emotions of the sample utterances; none where espeak-ng is not installed."""
    from ser_plugins.corpora import synthetic

    try:
        synthetic.require_espeak()
    except PluginError:
        return []
    return list(synthetic.EMOTIONS)


def build(listen: Listener, folder: Path, note: str = "", names: Collection[str] = ()) -> Any:
    """The page as an application.

    Arguments
    ---------
    listen : Listener
        What hears a recording; one at a time.
    folder : Path
        Where uploads wait to be read: ``$GRADIO_TEMP_DIR``. It is removed when the application ends.
    note : str
        Markdown shown under the introduction.
    names : Collection[str]
        Hosts by which a browser may call the page, as ``demo.example.org``; its address and ``localhost`` are known.

    Returns
    -------
    fastapi.FastAPI

    Raises
    ------
    PluginError
        Gradio is not installed.
    """
    gradio = _gradio()
    import fastapi

    app = fastapi.FastAPI(lifespan=lambda _: demo_uploads.sweeping(folder), openapi_url=None)  # and no /docs
    app.add_middleware(_Guard, names=names)
    app.add_api_route(demo_uploads.UPLOAD, demo_uploads.receiver(folder), methods=["POST"])
    app.add_api_route(f"{demo_uploads.UPLOAD}_progress", demo_uploads.done)
    css = (Path(__file__).parent / "assets" / "demo.css").read_text(encoding="utf-8")
    font = ("system-ui", "sans-serif")
    return gradio.mount_gradio_app(
        app, _page(gradio, listen, folder, note), path="/", footer_links=[], run_history=False, ssr_mode=False,
        pwa=False, mcp_server=False, enable_monitoring=False, show_error=True, max_file_size=demo_uploads.MAX_BYTES,
        theme=gradio.themes.Base(font=font, font_mono=("ui-monospace", "monospace")),
        head=f"<style>{css}</style>")  # not css=, which is confined to Gradio's container: .dark stands outside


def _page(gradio: Any, listen: Listener, folder: Path, note: str) -> Any:
    with gradio.Blocks(title="How was it said?", analytics_enabled=False) as page:
        gradio.Markdown(INTRODUCTION)
        if note:
            gradio.Markdown(note)
        recording = gradio.Audio(label="Speech", sources=["upload", "microphone"], type="filepath", editable=False,
                                 buttons=[], elem_id="recording")

        async def stay(path: Any) -> str:  # Gradio's own fetches addresses, and copies files
            return str(demo_uploads.uploaded(path, folder))

        recording.async_move_resource_to_block_cache = stay
        with gradio.Row():
            buttons = {emotion: gradio.Button(f"Example: {emotion}", min_width=130, elem_classes="example")
                       for emotion in samples_there_are()}
        shown = gradio.HTML(elem_id="answer", apply_default_css=False,
                            js_on_load="element.setAttribute('aria-live', 'polite')")

        def recognise(path: str | None) -> tuple[Any, Any]:
            if path is None:  # taken back
                return gradio.skip(), gradio.skip()
            return answer(demo_uploads.uploaded(path, folder), listen), None

        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress_on": shown}
        recording.input(recognise, recording, [shown, recording], api_name="recognise", **one_at_a_time)
        for emotion, button in buttons.items():
            def example(emotion: str = emotion) -> str:
                samples = sample(emotion)
                return demo_answer.render(f"synthetic voice, {emotion}", samples, listen(samples))

            button.click(example, None, shown, api_name=f"example_{emotion}", **one_at_a_time)
    return page.queue(max_size=demo_uploads.QUEUE)


class _Guard:
    """Adds the headers that confine the page, and refuses what the pages of others send.

    A page of others may give its own name this machine's address (DNS rebinding): the browser then takes both for one,
    and the header ``Host`` alone shows the name.
    """

    def __init__(self, app: Any, names: Collection[str] = ()):
        self.app, self.names = app, {name.lower() for name in names}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        if headers.get(b"host", b"").decode("latin-1").lower() not in self.names | _hosts(*scope["server"]):
            return await _refuse(send, "this page does not answer to this name: use the address that ser demo shows, "
                                       "or start it with --name and the name")
        origin = headers.get(b"origin", b"").partition(b"://")[2]
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin and origin != headers.get(b"host"):
            return await _refuse(send, "this page answers to itself only")

        async def confined(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode()),
                                      (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff")]
                if scope["path"].startswith("/gradio_api/"):  # the browser keeps neither recordings nor answers
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self.app(scope, receive, confined)


async def _refuse(send: Any, why: str) -> None:
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": why.encode()})


def _hosts(address: str, port: int) -> set[str]:
    """What the header ``Host`` is where a browser was given the address, or ``localhost``.

    Example
    -------
    >>> sorted(_hosts("::1", 7860))
    ['[::1]:7860', 'localhost:7860']
    """
    hosts = {f"[{address}]" if ":" in address else address, "localhost"}
    return {f"{host}:{port}" for host in hosts} | (hosts if port == 80 else set())


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise PluginError("ser demo needs Gradio, which is not installed: pip install 'ser_plugins[demo]'") from error
    return gradio


def listen_at(host: str, port: int) -> socket.socket:
    """A socket that is bound.

    Raises
    ------
    OptionError
        The port is taken or forbidden, or the host is none of this machine's addresses.
    """
    if not 0 <= port <= 65535:
        raise OptionError(f"host {host}, port {port}: ports are whole numbers up to 65535, and 0 is any free one")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OptionError(f"host {host}, port {port}: {error.strerror or error}; choose others by --host and --port "
                          "(0 is any free port)") from error


def serve(model: str | Path | None, host: str = "127.0.0.1", port: int = 7860, device: str = "cpu",
          name: str | None = None) -> None:
    """Shows the page until it is interrupted.

    Arguments
    ---------
    model : str | Path | None
        As of `listener`.
    host : str
        The address to listen at; by default only this machine reaches it.
    port : int
        0 is any free one.
    device : str
        Where the model runs.
    name : str, optional
        What else browsers call the page by, behind a proxy or in a network: ``demo.example.org``, with a port that
        they show.

    Raises
    ------
    PluginError
        Gradio is not installed.
    OptionError
        Host or port cannot be had.
    DataError
        The model cannot be loaded.
    """
    _gradio()
    import uvicorn

    with listen_at(host, port) as bound, demo_uploads.waiting_room() as folder:
        address = bound.getsockname()
        shown = f"[{address[0]}]" if bound.family == socket.AF_INET6 else address[0]
        names = {f"{host}:{address[1]}", f"{shown}:{address[1]}"} | ({name} if name else set())
        app = build(listener(model, device), folder, FIRST_TRIALS if model is None else "", names)
        print(f"open http://{shown}:{address[1]} in a browser; Ctrl-C ends it", flush=True)
        if host not in ("127.0.0.1", "::1", "localhost"):
            print("Whoever reaches this address may use it. Browsers give the microphone to pages by HTTPS only: put "
                  "a proxy before it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none")).run(sockets=[bound])
