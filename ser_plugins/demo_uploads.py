"""The door through which `ser_plugins.demo` takes files, and the folder in which they wait to be read.

Gradio's own names an upload by a hash of its content, so that two users who send the same share one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from ser_plugins.errors import OptionError

MAX_BYTES = 25_000_000  # of a file: a minute of 32-bit stereo at 48 kHz
QUEUE = 100  # requests that wait, and files that wait to be read
PATIENCE = 600.0  # s after which a file that nobody asked for is removed
UPLOAD = "/gradio_api/upload"  # Gradio's documented address: a form with `files` → a list of paths


@contextlib.contextmanager
def waiting_room() -> Iterator[Path]:
    """A folder for uploads that Gradio knows of."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="ser-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def receiver(folder: Path) -> Callable[..., Any]:
    """The door for uploads, in place of Gradio's: a folder for each file, and limits before anything is written."""
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse

    async def receive(request: Request):
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return PlainTextResponse("the length of the upload is missing", 411)
        if int(length) > MAX_BYTES + 2000:  # what the form adds
            return PlainTextResponse(f"The file has {int(length) / 1e6:.1f} MB, and {MAX_BYTES / 1e6:g} are allowed: "
                                     "cut it, or convert it to FLAC or MP3", 413)
        if folder.is_dir() and sum(1 for _ in folder.iterdir()) >= QUEUE:
            return PlainTextResponse("Too many recordings are waiting: try again in a minute", 503)
        try:
            async with request.form(max_files=1, max_fields=4) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    return PlainTextResponse("the form has no file named 'files'", 400)
                content = await file.read()
                path = place(folder, file.filename or "")
        except HTTPException as error:
            return PlainTextResponse(f"not a form with one file: {error.detail}", 400)
        await asyncio.to_thread(path.write_bytes, content)
        return JSONResponse([str(path)])

    receive.__annotations__ = {"request": Request}  # FastAPI cannot resolve a name that is local here
    return receive


def done():
    """What Gradio's page hears of an upload's progress: it is told no more than the end."""
    from starlette.responses import Response

    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def place(folder: Path, name: str) -> Path:
    """A new path for a file that the user calls so."""
    clean = "".join(sign for sign in Path(name.replace("\\", "/")).name if sign.isprintable()).lstrip(".")
    stem, suffix = os.path.splitext(clean)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=folder)) / f"{stem[:40] or 'recording'}{suffix[:10]}"


def uploaded(path: str | Path, folder: Path) -> Path:
    """The path, if it is a file that `receiver` put there: who asks names it, and may name another.

    Raises
    ------
    OptionError
        It is an address, or lies elsewhere.
    """
    found = Path(os.path.abspath(path))
    if "://" in str(path) or found.parent.parent != Path(os.path.abspath(folder)):
        raise OptionError("this page takes files that were uploaded to it, and no paths or addresses of others")
    return found


@contextlib.asynccontextmanager
async def sweeping(folder: Path) -> AsyncIterator[None]:
    """Removes files that were sent and never asked for; at the end, all."""
    async def sweep() -> None:
        while True:
            await asyncio.sleep(PATIENCE / 10)
            clear(folder, PATIENCE)

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()
        shutil.rmtree(folder, ignore_errors=True)


def clear(folder: Path, age: float) -> None:
    """Removes what has lain in the folder for longer than some seconds."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - age:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
