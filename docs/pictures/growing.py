"""Record the picture of an answer that grows, and of one that is stopped: as `docs/assets/streaming.svg`.

<<<<<<<< HEAD:docs/pictures/growing_answer.py
`uv run python docs/pictures/growing_answer.py`; session.py says how, and what that needs.
========
`uv run python docs/pictures/growing.py`; session.py says how, and what that needs.
>>>>>>>> stream:docs/pictures/growing.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from session import ROOT, Frame, Session, drawn

PICTURE = ROOT / "docs" / "assets" / "streaming.svg"
TITLE = "bot chat: an answer grows word by word, and Ctrl-C stops another"
CTRL_C = "\x03"


def record(folder: Path) -> list[Frame]:
    """Talk to the agent of docs/examples/story_agent.py."""
    session = Session(folder)
    project = folder / "home" / "mybot"
    copy = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults"]
    subprocess.run([*copy, str(folder / "tg-state-template"), str(project)], check=True)
    shutil.copy2(ROOT / "docs" / "examples" / "story_agent.py", project / "bot" / "agent.py")
    subprocess.run(["uv", "sync", "--quiet"], cwd=project, check=True)
    try:
        session.types("cd mybot", seconds=0.2)
        session.types("uv run bot chat")
        session.waits_for("you>")
        session.shows(1.2)
        session.types("owls", seconds=0.6)
        session.watches("The end.")
        session.waits_for("you>", times=2)
        session.shows(1.2)
        session.types("a very long winter night, and all that came to pass in it", seconds=0.8)
        session.watches("about a very long")
        session.presses(CTRL_C)
        session.waits_for("you>", times=3)
        session.shows(1.6)
        session.types("bees", seconds=0.6)
        session.watches("about bees. The end.")
        session.waits_for("you>", times=4)
        session.shows(5)
    finally:
        session.close()
    return session.frames


def main() -> None:
    """Record and draw."""
    with tempfile.TemporaryDirectory(prefix="session-") as folder:
        frames = record(Path(folder))
    PICTURE.write_text(drawn(frames, TITLE), "utf-8")


if __name__ == "__main__":
    main()
