"""Whether the arguments of a call fit the parameters of a function, and what they are there.

JSON has fewer types than Python: an object may become a dataclass, an integer a float. Nothing else is
converted, and an annotation that is not understood here is not checked.
"""

import dataclasses
import inspect
import types
import typing
from typing import Any, Callable, List, Union

#: X | Y is one since Python 3.10.
UNIONS = (Union, getattr(types, "UnionType", Union))

#: What is raised where a value does not fit; OverflowError by an integer that is too large for a float.
MISFIT = (TypeError, ValueError, OverflowError)

CHECKED = (str, int, bool, float, list, dict, None, type(None))


class Parameters:
    """What a function takes."""

    def __init__(self, function: Callable[..., Any], context: type) -> None:
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__name__} is async: attempts have a thread each; use asyncio.run in it")
        hints = typing.get_type_hints(function)
        self._signature = inspect.signature(function)
        self._hints: List[Any] = []
        self._rest: Any = Any
        self.takes_context = False
        for index, parameter in enumerate(self._signature.parameters.values()):
            hint = hints.get(parameter.name, Any)
            if index == 0 and hint is context:
                self.takes_context = True
            elif parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = hint
            elif parameter.kind is not parameter.KEYWORD_ONLY:
                self._hints.append(hint)

    def arguments(self, input_: Any) -> List[Any]:
        """The arguments of a call, fit for the function; otherwise one of :data:`MISFIT`."""
        if not isinstance(input_, list):
            raise ValueError(f"the input is {kind(input_)}, not an array of arguments")
        self._signature.bind(*[None] * self.takes_context, *input_)
        hints = self._hints + [self._rest] * (len(input_) - len(self._hints))
        return [fit(hint, value, f"argument {n}") for n, (hint, value) in enumerate(zip(hints, input_), 1)]


def fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as an instance of `hint`."""
    plain: Any = typing.get_origin(hint) or hint
    inner = typing.get_args(hint)
    if plain in UNIONS:
        # 3 is an int, even where a float that comes first would take it.
        for arm in sorted(inner, key=lambda arm: arm is not type(value)):
            try:
                return fit(arm, value, where)
            except MISFIT:
                continue
    elif plain is list and isinstance(value, list):
        return [fit(inner[0] if inner else Any, item, f"{where}[{n}]") for n, item in enumerate(value)]
    elif plain is dict and isinstance(value, dict):
        return {key: fit(inner[1] if inner else Any, item, f"{where}.{key}") for key, item in value.items()}
    elif dataclasses.is_dataclass(plain) and isinstance(value, dict):
        hints = typing.get_type_hints(plain)
        names = [field.name for field in dataclasses.fields(plain) if field.init and field.name in value]
        given = {name: fit(hints[name], value[name], f"{where}.{name}") for name in names}
        return plain(**given)  # type: ignore[operator]
    elif plain is float and type(value) in (int, float):
        return float(value)
    elif plain in (None, type(None)) and value is None:
        return value
    elif type(value) is plain:
        # And not isinstance: True is an int to Python, and none to anybody who calls.
        return value
    elif plain not in CHECKED and not dataclasses.is_dataclass(plain):
        return value
    raise ValueError(f"{where} is {kind(value)}, not {getattr(hint, '__name__', hint)}")


def kind(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
