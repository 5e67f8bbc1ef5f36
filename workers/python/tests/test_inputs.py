"""Which arguments fit which parameters."""

import unittest
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Union

from backstitch_worker import Context
from backstitch_worker._inputs import MISFIT, Parameters


@dataclass
class Address:
    city: str
    lines: List[str]
    country: Optional[str] = None


def takes(function: Any, *arguments: Any) -> Any:
    return Parameters(function, Context).arguments(list(arguments))


class Inputs(unittest.TestCase):
    def refuses(self, function: Any, *arguments: Any) -> None:
        with self.assertRaises(MISFIT):
            takes(function, *arguments)

    def test_arguments_go_to_parameters_by_position_and_their_number_is_checked(self) -> None:
        def two(a: int, b: str = "b") -> None: ...
        def any_number(*all: int) -> None: ...

        self.assertEqual(takes(two, 1), [1])
        self.assertEqual(takes(two, 1, "x"), [1, "x"])
        self.refuses(two)
        self.refuses(two, 1, "x", None)
        self.assertEqual(takes(any_number, 1, 2, 3), [1, 2, 3])
        self.refuses(any_number, 1, "2")

    def test_a_first_parameter_that_is_a_context_is_no_argument(self) -> None:
        def named(context: Context, n: int) -> None: ...

        parameters = Parameters(named, Context)
        self.assertTrue(parameters.takes_context)
        self.assertEqual(parameters.arguments([1]), [1])
        self.refuses(named)
        self.refuses(named, 1, 2)

    def test_an_integer_is_a_float_and_a_boolean_is_neither(self) -> None:
        def whole(n: int) -> None: ...
        def real(x: float) -> None: ...
        def either(x: Union[float, int]) -> None: ...

        huge = 10**400
        self.assertEqual(takes(whole, huge), [huge])
        self.refuses(whole, 1.0)
        self.refuses(whole, True)
        self.assertIs(type(takes(real, 1)[0]), float)
        self.refuses(real, huge)
        self.refuses(real, False)
        self.assertIs(type(takes(either, 1)[0]), int)

    def test_containers_and_dataclasses_are_checked_to_their_depths(self) -> None:
        def all_of(address: Address, by_name: Dict[str, List[int]], perhaps: Optional[str]) -> None: ...

        address = {"city": "Cork", "lines": ["1 Quay"], "unknown": 1}
        taken = takes(all_of, address, {"a": [1]}, None)
        self.assertEqual(taken, [Address("Cork", ["1 Quay"]), {"a": [1]}, None])
        self.refuses(all_of, {"city": "Cork"}, {}, None)
        self.refuses(all_of, {**address, "lines": [1]}, {}, None)
        self.refuses(all_of, address, {"a": ["1"]}, None)
        self.refuses(all_of, address, {}, 1)
        self.refuses(all_of, "Cork", {}, None)

    def test_what_is_not_annotated_or_not_understood_is_not_checked(self) -> None:
        def free(a, b: "Dict[str, Any]", c: bytes) -> None: ...  # type: ignore[no-untyped-def]

        self.assertEqual(takes(free, [1], {"x": None}, "c"), [[1], {"x": None}, "c"])

    def test_an_async_function_is_refused_when_it_is_registered(self) -> None:
        async def later() -> None: ...

        with self.assertRaises(TypeError):
            Parameters(later, Context)


if __name__ == "__main__":
    unittest.main()
