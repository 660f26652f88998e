"""What Firestore holds in a bot's collection, as a file: a line of JSON for each document.

It speaks the REST interface, whose JSON names the type of every value.
"""

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

EXPIRES = "expires_at"


async def dump(settings: Mapping[str, str], folder: Path) -> None:
    """Write every document of `NAMESPACE`. When they expire is left out."""
    found = await asyncio.to_thread(_documents, settings)
    lines = []
    for document in found:
        fields = document.get("fields", {})
        fields.pop(EXPIRES, None)
        lines.append([document["name"].rpartition("/")[2], dict(sorted(fields.items()))])
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in sorted(lines))
    (folder / "firestore.jsonl").write_text(text, "utf-8")


async def restore(settings: Mapping[str, str], folder: Path) -> None:
    """Put those documents into another project."""
    for line in (folder / "firestore.jsonl").read_bytes().splitlines():
        name, fields = json.loads(line)
        await asyncio.to_thread(_ask, settings, f"/{quote(name, safe='')}", {"fields": fields})


def _documents(settings: Mapping[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page = ""
    while True:
        answer = _ask(settings, f"?pageSize=300&pageToken={quote(page)}")
        found += answer.get("documents", [])
        page = answer.get("nextPageToken", "")
        if not page:
            return found


def _ask(settings: Mapping[str, str], path: str, document: object = None) -> Any:
    """Read from the collection, or write a document into it."""
    project = settings["GOOGLE_CLOUD_PROJECT"]
    documents = f"v1/projects/{project}/databases/(default)/documents/{settings['NAMESPACE']}"
    request = urllib.request.Request(
        f"http://{settings['FIRESTORE_EMULATOR_HOST']}/{documents}{path}",
        data=None if document is None else json.dumps(document).encode(),
        method="GET" if document is None else "PATCH",
        headers={"Authorization": "Bearer owner", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
