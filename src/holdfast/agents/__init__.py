"""What answers: a function from one message to the reply, found by its specification."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import MsgspecError, Struct, msgpack

from holdfast.errors import ConfigError
from holdfast.foreign import contained
from holdfast.messages import Inbound, Reply
from holdfast.threads import Calls

HANGING = 64
"""Calls of a sync agent that may go on after their deadlines; each costs a thread."""

Answer = str | Reply | Sequence[str | Reply] | None
"""What a handler may return: nothing, one reply, or several in order."""


class Turn(Struct, frozen=True, kw_only=True):
    """The circumstances of one call of a handler."""

    account: str
    attempt: int
    """From 1; above 1 an earlier try failed or the process died in it."""
    deadline: float
    """On the loop's clock: when the call will be cancelled."""


Agent = Callable[[Inbound, Turn], Awaitable[list[Reply]]]
"""Answers one message. Cancelled at its deadline and when the gateway stops."""


async def echo(message: Inbound, turn: Turn) -> list[Reply]:
    """Answer with the message's own text and attachments' names: a bot to try things with."""
    names = [attachment.name or attachment.kind.value for attachment in message.attachments]
    text = " ".join([message.text, *(f"[{name}]" for name in names)]).strip()
    return [Reply(text=f"echo: {text}")]


def load(spec: str, where: str, base: Path) -> Agent:
    """The agent a specification names: ``echo`` or ``python:module:function``.

    Modules are also found beside the configuration file (``base``). Raises ConfigError.
    """
    if spec == "echo":
        return echo
    kind, _, rest = spec.partition(":")
    module_name, _, name = rest.partition(":")
    if kind != "python" or not module_name or not name:
        raise ConfigError(where, f"{spec!r} is no agent", "use `echo` or `python:module:function`")
    return wrap(_import(module_name, name, where, base), where)


def _import(module_name: str, name: str, where: str, base: Path) -> Any:
    sys.path.insert(0, str(base))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module does at its import
        raise ConfigError(
            where,
            f"module {module_name!r} can not be imported: {type(error).__name__}: {error}",
            _remedy(error, module_name, base),
        ) from error
    finally:
        sys.path.remove(str(base))
    try:
        return getattr(module, name)
    except AttributeError:
        hint = "it is the program that runs the gateway" if module_name == "__main__" else ""
        raise ConfigError(where, f"module {module_name!r} has no {name!r}", hint) from None


def _remedy(error: BaseException, module_name: str, base: Path) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f"{module_name}.".startswith(f"{missing}."):
        return f"it must be installed, or lie beside the configuration in {base}"
    return f"it was found: install {missing}" if missing else "it was found: mend it"


def wrap(function: Any, where: str) -> Agent:
    """A user's function as an agent: sync or async, with (message) or (message, turn).

    A sync function runs in a thread, so that it can not stop the gateway's loop; while `HANGING` of
    its calls have outlived their deadlines, others fail with CallsHang. What is meant to end the
    process is a failure of the function. Raises ConfigError when it can not be called that way.
    """
    if not callable(function):
        raise ConfigError(where, f"{function!r} can not be called")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    demands = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if not 1 <= count <= 2 or demands:
        raise ConfigError(where, "an agent takes (message) or (message, turn)")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  an object with an async __call__
    )
    calls = Calls("the agent", HANGING)

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        arguments = (message, turn)[:count]
        with contained("the agent"):
            if is_async:
                return replies(await function(*arguments))
            return replies(await calls(function, *arguments))

    return agent


_write, _read = msgpack.Encoder(), msgpack.Decoder(list[Reply])


def usable(answer: Any) -> list[Reply]:
    """The replies that an `Agent` returned, if they are such as can be written down and read again.

    Else raises TypeError, which says what is wrong with them.
    """
    try:
        return _read.decode(_write.encode(answer))
    except (MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"an agent returned what is no answer: {error}") from error


def replies(answer: Any) -> list[Reply]:
    """What a handler returned, as replies. Raises TypeError for anything else than `Answer`."""
    match answer:
        case None:
            return []
        case str():
            return [Reply(text=answer)] if answer else []
        case Reply():
            return [answer]
        case list() | tuple():
            return [reply for one in answer for reply in replies(one)]
        case _:
            raise TypeError(f"an agent returned {type(answer).__name__}, not a text or Reply")
