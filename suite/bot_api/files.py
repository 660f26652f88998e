"""Files: what was sent either way, `getFile`, and downloads.

A link is good for an hour, and files of more than 20 MB are out of reach. In local mode neither holds:
`getFile` tells a path on this machine.
"""

import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.bot_api.call import Call, Json
from suite.bot_api.errors import ApiError, bad_request

if TYPE_CHECKING:
    from suite.bot_api.chats import Chats

DOWNLOAD_LIMIT = 20 * 2**20
FOLDERS = {"photo": "photos", "voice": "voice", "video": "videos", "audio": "music", "sticker": "stickers"}
SHAPES: dict[str, Json] = {
    "photo": {"width": 1, "height": 1},
    "video": {"width": 1, "height": 1, "duration": 1},
    "animation": {"width": 1, "height": 1, "duration": 1},
    "live_photo": {"width": 1, "height": 1, "duration": 1},
    "video_note": {"length": 1, "duration": 1},
    "voice": {"duration": 1},
    "audio": {"duration": 1},
    "sticker": {
        "type": "regular",
        "width": 512,
        "height": 512,
        "is_animated": False,
        "is_video": False,
    },
}
"""What Telegram always tells of a file of the kind."""

KINDS = {*SHAPES, "document"}
"""The fields of a Message that have a file."""


@dataclass(frozen=True)
class Stored:
    """A file that Telegram has. Its object may tell another size, to stand for a larger one."""

    kind: str
    object: Json
    content: bytes


class Files:
    """All files, by file id.

    Attributes:
        life: for how many seconds a link works.
        local_folder: a folder for files; with it, the server runs in local mode.
    """

    def __init__(self, telegram: "Chats") -> None:
        self.life: float = 3600
        self.local_folder: Path | None = None
        self._stored: dict[str, Stored] = {}
        self._links: dict[str, tuple[str, float]] = {}  # path -> file id, good until (monotonic)
        self._numbers = itertools.count(1)
        telegram.method("getFile", "file_id")(self._get_file)
        telegram.method("downloadFile", "file_path")(self._download)

    def add(self, content: bytes, kind: str = "document", **fields: Any) -> Json:
        """Stores a file, and gives its object as it stands in a message (of a photo: one of its sizes).

        Args:
            content: what is downloaded.
            kind: the field of a Message that it is for.
            fields: further fields of the object; `file_size` may be another than the content's.
        """
        number = next(self._numbers)
        own = {"file_id": f"{kind}-{number}", "file_unique_id": f"u{number}", "file_size": len(content)}
        stored = Stored(kind, {**own, **SHAPES.get(kind, {}), **fields}, content)
        self._stored[stored.object["file_id"]] = stored
        return dict(stored.object)

    def sent(self, call: Call, kind: str, given: str) -> Json:
        """The object of a file that the bot sends.

        Args:
            call: what it is sent with.
            kind: such as "photo".
            given: `attach://field`, the id of a file that is there, or a URL, which is not looked at.

        Raises:
            ApiError: 400, where there is no such file, or nothing in it.
        """
        if re.match(r"https?://[^/]+", given):
            return self.add(b"", kind)
        if given.startswith("attach://"):
            name = call.uploads.get(given.removeprefix("attach://"))
            if name is None:
                raise bad_request(f"there is no {kind} in the request")
            if not call.files[name]:
                raise bad_request("file must be non-empty")
            return self.add(call.files[name], kind, **({"file_name": name} if kind == "document" else {}))
        stored = self._stored.get(given)
        if stored is None:
            raise bad_request("wrong file identifier/HTTP URL specified")
        if stored.kind != kind:
            raise bad_request(f"can't use file of type {stored.kind.title()} as {kind.title()}")
        return dict(stored.object)

    async def _get_file(self, call: Call) -> Json:
        file_id = call.params.get("file_id", "")
        if not file_id:
            raise bad_request("file_id not specified")
        stored = self._stored.get(file_id)
        if stored is None:
            raise bad_request("wrong file_id or the file is temporarily unavailable")
        if stored.object["file_size"] > DOWNLOAD_LIMIT and self.local_folder is None:
            raise bad_request("file is too big")
        told = {name: stored.object[name] for name in ("file_id", "file_unique_id", "file_size")}
        if self.local_folder is not None:
            path = self.local_folder / file_id
            path.write_bytes(stored.content)
            return {**told, "file_path": str(path)}
        link = f"{FOLDERS.get(stored.kind, stored.kind + 's')}/{file_id}"
        self._links[link] = (file_id, time.monotonic() + self.life)
        return {**told, "file_path": link}

    async def _download(self, call: Call) -> bytes:
        file_id, until = self._links.get(call.params["file_path"], ("", float("-inf")))
        if time.monotonic() > until:
            raise ApiError(404, "Not Found")
        return self._stored[file_id].content


def content_of(kind: str, file: Json) -> Json:
    """The field of a Message that a file of the kind fills."""
    return {kind: [file] if kind == "photo" else file}
