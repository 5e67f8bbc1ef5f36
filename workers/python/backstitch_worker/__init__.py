"""Carries out activities of Backstitch workflows in a Python program of one's own.

See :class:`Worker` for what is promised.
"""

from ._attempt import LATER, Context, Failure, Json
from ._host import Refused
from ._worker import Worker

__all__ = ["LATER", "Context", "Failure", "Json", "Refused", "Worker"]
