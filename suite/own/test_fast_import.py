"""aiogram imported lazily is the aiogram one knows. Run as a script, this file reports on one."""

import asyncio
import copy
import importlib
import inspect
import json
import logging
import os
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, SerializeAsAny, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from bot.runtime.telegram import fast_import as lazy

pytestmark = [pytest.mark.clause("import.fast"), pytest.mark.rarely]  # it changes with aiogram

HERE = Path(__file__).resolve()
REBUILD = vars(BaseModel)["model_rebuild"]
Json = dict[str, Any]

MESSAGE: Json = {
    "message_id": 7,
    "date": 1_700_000_000,
    "chat": {"id": 5, "type": "private", "first_name": "Ann"},
    "from": {"id": 5, "is_bot": False, "first_name": "Ann"},
    "text": "/start now",
    "entities": [{"type": "bot_command", "offset": 0, "length": 6}],
    "reply_to_message": {
        "message_id": 6,
        "date": 1_700_000_000,
        "chat": {"id": 5, "type": "private"},
        "forward_origin": {"type": "hidden_user", "sender_user_name": "B", "date": 1_600_000_000},
        "brand_new_field": {"a": 1},
    },
}
MEMBER = {"status": "kicked", "user": MESSAGE["from"], "until_date": 0}


# What a process reports on the aiogram it imported


class Lenient(GenerateJsonSchema):
    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Json:
        return {"invalid": error_info}


def models() -> dict[str, type[BaseModel]]:
    found = {}
    for module in ("aiogram.types", "aiogram.methods"):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            if isinstance(value, type) and issubclass(value, BaseModel):
                found[f"{module}.{name}"] = value
    return found


def unions() -> Json:
    module = importlib.import_module("aiogram.types")
    return {name: getattr(module, name) for name in module.__all__ if name.endswith("Union")}


def plain(value: object) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def attempt(function: Callable[[], object]) -> str:
    try:
        return plain(function())
    except Exception as error:
        return "failed: " + plain(error)


def sample(annotation: Any, depth: int = 0) -> Any:
    """A value that suits an annotation: all fields at the top, only the needed ones below."""
    if value := getattr(annotation, "__value__", None):
        return sample(value, depth)
    args = [arg for arg in get_args(annotation) if arg is not type(None)]
    match get_origin(annotation):
        case None:
            return single(annotation, depth)
        case origin if origin is Literal:
            return args[0].value if isinstance(args[0], Enum) else args[0]
        case origin if origin is list:
            return [sample(args[0], depth + 1)]
        case origin if origin in (Annotated, Union, types.UnionType):
            return sample(args[0], depth)
    return {}


def single(cls: Any, depth: int) -> Any:
    from aiogram.types import BufferedInputFile, InputFile

    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {
            name: sample(field.annotation, depth + 1)
            for name, field in cls.model_fields.items()
            if field.is_required() or depth == 0 or get_origin(field.annotation) is Literal
        }
    if isinstance(cls, type) and issubclass(cls, Enum):
        return next(iter(cls)).value
    if cls is InputFile:
        return BufferedInputFile(b"x", "x")
    return {bool: True, int: 3, float: 0.5, datetime: 1_700_000_000}.get(cls, "x")


def signature(cls: type[BaseModel]) -> str:
    cls.model_rebuild()
    return plain(inspect.signature(cls))


def round_trip(cls: type[BaseModel]) -> str:
    instance = cls.model_validate(sample(cls))
    same = [copy.copy(instance), copy.deepcopy(instance), pickle.loads(pickle.dumps(instance))]
    dumped = instance.model_dump(exclude_defaults=True, warnings=False)
    return plain([other == instance for other in same]) + plain(instance) + plain(dumped)


def in_threads() -> list[object]:
    from aiogram.methods import SendMessage
    from aiogram.types import Update

    barrier, results = threading.Barrier(8), []

    def first_use(number: int) -> None:
        barrier.wait()
        if number % 2:
            update = Update.model_validate({"update_id": number, "message": MESSAGE})
            results.append(update.message is not None and update.message.text)
        else:
            results.append(SendMessage(chat_id=number, text="x").text)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=first_use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    return sorted(results, key=str)


class Loose(BaseModel):
    value: Any = None
    exact: SerializeAsAny[BaseModel | None] = None


def nested_in_any() -> list[str]:
    """Models that are built only as parts of others, or not at all, in fields of type Any."""
    from aiogram.types import ChatMemberRestricted, ChatMemberUpdated, Dice, Update

    change = {"chat": MESSAGE["chat"], "from": MESSAGE["from"], "date": 0}
    change |= {"old_chat_member": MEMBER | {"status": "left"}, "new_chat_member": MEMBER}
    update = Update.model_validate({"update_id": 1, "chat_member": change})
    assert isinstance(update.chat_member, ChatMemberUpdated)
    new = update.chat_member.old_chat_member
    anything: TypeAdapter[Any] = TypeAdapter(Any)
    dice = Dice.model_construct(emoji="x", value=3)
    partial: Json = {"status": "restricted"}
    restricted = ChatMemberRestricted.model_construct(**partial)
    return [
        attempt(lambda: Loose(value=update.chat_member, exact=new).model_dump_json()),
        attempt(lambda: anything.dump_python([dice, update.event])),
        attempt(lambda: Loose(exact=restricted).model_dump(warnings=False)),
    ]


def generics() -> list[object]:
    from aiogram.methods import GetMe, Response
    from aiogram.types import MessageEntity, Poll, Update

    updates = Response[list[Update]].model_validate(
        {"ok": True, "result": [{"update_id": 1, "edited_message": MESSAGE}]}, context={"bot": None}
    )
    failed = Response[bool].model_validate_json('{"ok":false,"parameters":{"retry_after":3}}')
    many = TypeAdapter(dict[str, list[MessageEntity]]).validate_python({"a": MESSAGE["entities"]})
    return [updates, failed, many, TypeAdapter(Poll).json_schema(), GetMe.__returning__]


def owners_subclasses() -> list[object]:
    from aiogram.methods import GetChat
    from aiogram.types import Chat, Message

    class Local(BaseModel):
        number: int

    class MyMessage(Message):
        local: "Local | None" = None

    class MyGetChat(GetChat):
        local: "Local"

    class Holder(BaseModel):
        mine: MyMessage
        chats: list[Chat] = []

    mine = MyMessage.model_validate(MESSAGE | {"local": {"number": 1}})
    get_chat = MyGetChat(chat_id=1, local=Local(number=2))
    schema = MyMessage.model_json_schema()["properties"]["local"]
    return [mine, get_chat, Holder(mine=mine).model_dump_json(), schema, MyGetChat.model_config]


def conversation() -> list[object]:
    """A bot at work, without a network."""
    from aiogram import Bot, Dispatcher, F
    from aiogram.filters import Command
    from aiogram.filters.callback_data import CallbackData
    from aiogram.fsm.scene import Scene, SceneRegistry, on
    from aiogram.types import CallbackQuery, Message, Update
    from aiogram.utils.keyboard import InlineKeyboardBuilder
    from aiogram.utils.media_group import MediaGroupBuilder

    class Pick(CallbackData, prefix="pick"):
        number: int

    class Ask(Scene, state="ask"):
        @on.message.enter()
        async def enter(self, message: Message) -> None:
            await message.answer("?")

    async def start(message: Message) -> Any:
        keyboard = InlineKeyboardBuilder()
        keyboard.button(text="1", callback_data=Pick(number=1))
        return message.answer("x", reply_markup=keyboard.as_markup())

    async def pick(query: CallbackQuery, callback_data: Pick) -> Any:
        return query.answer(str(callback_data.number))

    dispatcher = Dispatcher()
    SceneRegistry(dispatcher).add(Ask)
    dispatcher.message.register(start, Command("start"), F.text)
    dispatcher.callback_query.register(pick, Pick.filter(F.number == 1))
    bot = Bot("42:TEST")
    query = {"id": "1", "from": MESSAGE["from"], "chat_instance": "1", "data": "pick:1"}

    async def feed(**raw: Json) -> Any:
        update = Update.model_validate({"update_id": 1, **raw}, context={"bot": bot})
        assert update.event.bot is bot
        return await dispatcher.feed_update(bot, update)

    async def both() -> list[Any]:
        return [await feed(message=MESSAGE), await feed(callback_query=query)]

    media = MediaGroupBuilder(caption="c")
    media.add_photo("photo")
    answers = asyncio.run(both())
    assert all(answer._bot is bot for answer in answers)
    dumped = [answer.model_dump(exclude_defaults=True) for answer in answers]
    return [dumped, answers[0].model_copy(update={"text": "y"}), media.build()]


def submodules() -> list[str]:
    """Import every module of aiogram; some lack an optional dependency."""
    import aiogram

    names = [found.name for found in pkgutil.walk_packages(aiogram.__path__, "aiogram.")]
    return [attempt(lambda name=name: importlib.import_module(name).__name__) for name in names]  # type: ignore[misc]


def full_report() -> Json:
    built = sum(model.__pydantic_complete__ for model in models().values())
    builds: list[type] = []
    update = models()["aiogram.types.Update"]
    setattr(update, "__pydantic_on_complete__", classmethod(builds.append))  # noqa: B010
    report: Json = {"built": built}
    for function in (
        in_threads,
        nested_in_any,
        generics,
        owners_subclasses,
        conversation,
        submodules,
    ):
        report[function.__name__] = attempt(function)
    report["builds"] = len(builds)
    # One model around all the others comes first, while most are unbuilt, and in one piece.
    around: Json = {name.replace(".", "_"): (cls | None, None) for name, cls in models().items()}
    around |= {name: (union | None, None) for name, union in unions().items()}
    around_all = create_model("Around", __config__={"arbitrary_types_allowed": True}, **around)
    generate: Json = {"ref_template": "{model}", "schema_generator": Lenient}
    report["around"] = around_all.model_json_schema(**generate)
    report["fields"] = {name: plain(model.model_fields) for name, model in models().items()}
    report["config"] = {name: plain(model.model_config) for name, model in models().items()}
    report["signatures"] = {name: signature(model) for name, model in models().items()}
    report["samples"] = {name: attempt(lambda m=m: round_trip(m)) for name, m in models().items()}  # type: ignore[misc]
    wanted: Any = [(model, "serialization") for model in models().values()]
    report["schemas"] = models_json_schema(wanted, **generate)[1]
    return report


def state(prepare: str = "") -> Json:
    """Report on what `import_aiogram` does to the aiogram that is found first."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.levelname)  # type: ignore[method-assign]
    logger = logging.getLogger(lazy.__name__)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        if prepare:
            importlib.import_module(prepare)
        done = [lazy.import_aiogram(), lazy.import_aiogram()]
        user = importlib.import_module("aiogram.types").User
        return {
            "lazily": done,
            "log": records,
            "built": all(model.__pydantic_complete__ for model in models().values()),
            "restored": vars(BaseModel)["model_rebuild"] is REBUILD,
            "one": user is importlib.import_module("aiogram.types.user").User,
            "changed": getattr(user.model_rebuild, "__func__", None) is not REBUILD.__func__,
        }
    except Exception as error:
        return {"error": repr(error), "log": records}
    finally:
        logger.removeHandler(handler)


def state_of_fakes(folder: str) -> Json:
    internals = importlib.import_module("pydantic._internal._fields")
    rebuild_model_fields = internals.rebuild_model_fields
    report = {}
    for path in Path(folder).iterdir():
        sys.path.insert(0, str(path))
        importlib.invalidate_caches()
        if path.name == "other pydantic":
            vars(internals)["rebuild_model_fields"] = lambda *args, **options: None
        report[path.name] = state("aiogram" if path.name == "already imported" else "")
        vars(internals)["rebuild_model_fields"] = rebuild_model_fields
        sys.path.remove(str(path))
        for name in [name for name in sys.modules if name.partition(".")[0] == "aiogram"]:
            del sys.modules[name]
    return report


# Aiograms that are not what is expected, and ones that are

FAKE = {
    "__init__.py": "from . import types, methods\n",
    "client/__init__.py": "",
    "client/context_controller.py": """\
from pydantic import BaseModel

class BotContextController(BaseModel):
    pass
""",
    "types/base.py": """\
from ..client.context_controller import BotContextController

class TelegramObject(BotContextController, defer_build=True):
    pass
""",
    "types/user.py": """\
from .base import TelegramObject

class User(TelegramObject):
    id: int
    is_bot: bool
    first_name: str
""",
    "types/message_entity.py": """\
from __future__ import annotations
from typing import TYPE_CHECKING
from .base import TelegramObject

if TYPE_CHECKING:
    from .user import User

class MessageEntity(TelegramObject):
    type: str
    offset: int
    length: int
    user: User | None = None
""",
    "types/__init__.py": """\
from .base import TelegramObject
from .message_entity import MessageEntity
from .user import User

__all__ = ("MessageEntity", "TelegramObject", "User")
for entity in (MessageEntity, TelegramObject, User):
    entity.model_rebuild(_types_namespace={name: globals()[name] for name in __all__})
""",
    "methods/__init__.py": """\
from ..client.context_controller import BotContextController
from ..types import MessageEntity

__all__ = ("AnswerCallbackQuery",)

class AnswerCallbackQuery(BotContextController):
    callback_query_id: str
    entities: list[MessageEntity] | None = None
""",
}
LOOP = "    entity.model_rebuild(_types_namespace="

# What is replaced by what in which file, or in all of them
FAKES = {
    "as it is": (),
    "already imported": (),
    "other pydantic": (),
    "no loop": ("types/__init__.py", LOOP, "    dict(_types_namespace="),
    "base class renamed": ("", "BotContextController", "Context"),
    "module renamed": ("", "context_controller", "context"),
    "names incomplete": (
        "types/__init__.py",
        LOOP,
        "    entity.model_rebuild(raise_errors=False, _types_namespace={})\n" + LOOP,
    ),
    "import needs the builds": ("types/__init__.py", LOOP, LOOP.replace("entity", "assert entity")),
    "not buildable later": (
        "types/user.py",
        "    id: int",
        """\
    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        import sys
        assert "aiogram.methods" not in sys.modules, "too late"
        return handler(source)
    id: int""",
    ),
    "method gone": ("methods/__init__.py", "AnswerCallbackQuery", "Other"),
    "broken": ("__init__.py", "types", "nothing"),
}


def fake_aiogram(path: Path, file: str = "", old: str = "", new: str = "") -> None:
    for name, text in FAKE.items():
        if old and file in ("", name):
            name, text = name.replace(old, new), text.replace(old, new)
        target = path / "aiogram" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


# Tests


def start(report: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE), report, *options],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Json:
    folder = tmp_path_factory.mktemp("fakes")
    for name, edits in FAKES.items():
        fake_aiogram(folder / name, *edits)
    processes = [start("lazily"), start("ordinary"), start("fakes", str(folder))]
    answers = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        answers.append(json.loads(out))
    return dict(zip(("lazily", "ordinary", "fakes"), answers, strict=True))


def expected(*log: str, lazily: bool = False, built: bool = True) -> Json:
    return {
        "lazily": [lazily, False],
        "log": [*log, "DEBUG"],
        "built": built,
        "restored": True,
        "one": True,
        "changed": lazily,
    }


def test_models_are_not_built_by_the_import(reports: Json) -> None:
    assert reports["ordinary"]["built"] > 500
    assert reports["lazily"]["built"] < 20


def test_a_model_is_built_once_though_threads_race(reports: Json) -> None:
    assert reports["ordinary"]["builds"] == 0
    assert reports["lazily"]["builds"] == 1


@pytest.mark.parametrize(
    "aspect",
    [
        "in_threads",
        "nested_in_any",
        "generics",
        "owners_subclasses",
        "conversation",
        "submodules",
        "around",
        "fields",
        "config",
        "signatures",
        "schemas",
        "samples",
    ],
)
def test_lazy_is_like_ordinary(reports: Json, aspect: str) -> None:
    ordinary, lazily = reports["ordinary"][aspect], reports["lazily"][aspect]
    assert lazily == ordinary
    if isinstance(ordinary, str) and aspect != "submodules":  # some lack a dependency
        assert "failed: " not in str(ordinary)


def test_nearly_all_models_have_a_sample(reports: Json) -> None:
    samples = reports["lazily"]["samples"]
    failed = {name for name, text in samples.items() if text.startswith("failed: ")}
    assert failed <= {"aiogram.types.ErrorEvent", "aiogram.methods.TelegramMethod"}


def test_fake_as_it_is(reports: Json) -> None:
    report = reports["fakes"]["as it is"]
    assert report == expected(lazily=True, built=report["built"])


def test_already_imported(reports: Json) -> None:
    assert reports["fakes"]["already imported"] == expected("DEBUG")


def test_aiogram_that_builds_nothing_when_imported(reports: Json) -> None:
    assert reports["fakes"]["no loop"] == expected("DEBUG", built=False)


@pytest.mark.parametrize(
    "name",
    [
        "other pydantic",
        "base class renamed",
        "module renamed",
        "names incomplete",
        "import needs the builds",
        "not buildable later",
        "method gone",
    ],
)
def test_fallback(reports: Json, name: str) -> None:
    assert reports["fakes"][name] == expected("WARNING")


def test_broken_aiogram_fails_as_it_would(reports: Json) -> None:
    report = reports["fakes"]["broken"]
    assert report["log"] == ["WARNING"]
    assert "cannot import name 'nothing'" in report["error"]


if __name__ == "__main__":
    if sys.argv[1] == "lazily":
        lazy.import_aiogram()
    print(json.dumps(state_of_fakes(sys.argv[2]) if sys.argv[1] == "fakes" else full_report()))
