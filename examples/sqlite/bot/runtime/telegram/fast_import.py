"""Import aiogram in a fifth of the time and a third of the memory.

Importing aiogram builds some 580 pydantic models, although most are declared `defer_build=True`:
`aiogram.types` ends with a loop that does it. It takes seconds and 100 MB, and a bot needs a few
dozen of them. (Upstream: aiogram issue 1876; pull request 1861 made it milder.) `import_aiogram`,
called before anything else imports aiogram, leaves the builds out, so that pydantic builds each
model at its first use, and makes up for what they did besides:

- aiogram's modules import many names for type checkers only, and the loop told pydantic what they
  mean. Here the annotations of the models are resolved with the same names, which is quick.
- The first build of a deferred model is not thread-safe in pydantic 2.13: it gets a lock.
- pydantic cannot dump an instance into a field of type `Any` if its model was built only as a part
  of another (pydantic issue 13647): asking an instance for its serializer builds its model.

Should anything be other than expected, aiogram is imported the ordinary way: slower, no different.
"""

import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

logger = logging.getLogger(__name__)

REBUILD, SERIALIZER = "model_rebuild", "__pydantic_serializer__"
Model = type[BaseModel]


def import_aiogram() -> bool:
    """Import aiogram without building its models; False if it was imported the ordinary way."""
    if "aiogram" in sys.modules:
        logger.debug("aiogram is already imported")
        return False
    try:
        return _import_unbuilt()
    except Exception as error:
        logger.warning("importing aiogram the ordinary, slower way because of %r", error)
    for name in [name for name in sys.modules if name.partition(".")[0] == "aiogram"]:
        del sys.modules[name]
    importlib.import_module("aiogram")
    return False


def _import_unbuilt() -> bool:
    original = vars(BaseModel)[REBUILD]
    names: dict[str, Any] = {}
    skipped: list[Model] = []

    def skip(cls: Model, /, *, _parent_namespace_depth: int = 2, **options: Any) -> Any:
        if not cls.__module__.startswith("aiogram.") or "_types_namespace" not in options:
            depth = _parent_namespace_depth and _parent_namespace_depth + 1  # this frame
            return original.__get__(None, cls)(_parent_namespace_depth=depth, **options)
        if not skipped:
            names.update(options["_types_namespace"])
            _base().model_config["defer_build"] = True  # for the methods, which are defined later
        skipped.append(cls)
        return None

    setattr(BaseModel, REBUILD, classmethod(skip))
    try:
        importlib.import_module("aiogram")
    finally:
        setattr(BaseModel, REBUILD, original)
    if not skipped:
        logger.debug("this aiogram does not build its models when it is imported")
        return False
    _resolve_annotations(skipped, names)
    _build_when_used(original)
    _check()
    return True


def _base() -> Model:
    """Find the base class which aiogram's types and methods have in common."""
    base: Model = importlib.import_module("aiogram.client.context_controller").BotContextController
    return base


def _resolve_annotations(models: list[Model], names: dict[str, Any]) -> None:
    """Do the first part of building the models, as pydantic does it; NameError if it cannot be."""
    from pydantic._internal._config import ConfigWrapper
    from pydantic._internal._fields import rebuild_model_fields
    from pydantic._internal._namespace_utils import NsResolver

    resolver = NsResolver(parent_namespace=names)
    for cls in models:
        if not cls.__pydantic_fields_complete__:
            cls.__pydantic_fields__, cls.__pydantic_extra_info__ = rebuild_model_fields(
                cls,
                config_wrapper=ConfigWrapper(cls.model_config, check=False),
                ns_resolver=resolver,
                typevars_map={},
            )


def _build_when_used(original: Any) -> None:
    from aiogram.types import TelegramObject
    from pydantic._internal._mock_val_ser import MockValSer

    lock = threading.RLock()

    def rebuild(cls: Model, /, *, _parent_namespace_depth: int = 2, **options: Any) -> Any:
        depth = _parent_namespace_depth and _parent_namespace_depth + 1  # this frame
        with lock:
            return original.__get__(None, cls)(_parent_namespace_depth=depth, **options)

    class Unbuilt(MockValSer[Any]):
        __slots__ = ()

        def __get__(self, instance: object, owner: Model) -> Any:
            return self if instance is None else self.rebuild()

    base = _base()
    setattr(base, REBUILD, classmethod(rebuild))
    for cls in [base, *_subclasses(base)]:
        if not issubclass(cls, TelegramObject):
            cls.model_config.pop("defer_build", None)  # which subclasses of it would inherit
        if isinstance(serializer := vars(cls).get(SERIALIZER), MockValSer):
            serializer.__class__ = Unbuilt


def _subclasses(cls: Model) -> Iterator[Model]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _check() -> None:
    from aiogram.methods import AnswerCallbackQuery
    from aiogram.types import MessageEntity, User

    user = User(id=1, is_bot=False, first_name="A")
    entity = MessageEntity(type="text_mention", offset=0, length=1, user=user)
    if MessageEntity.model_validate(entity.model_dump(mode="json")) != entity:
        raise RuntimeError("the self-check failed")
    AnswerCallbackQuery(callback_query_id="1")
