"""The application: a proxy that is made of nothing but the library."""

from ._answer import Answer as Answer
from ._answer import CallOutcome as CallOutcome
from ._app import App as App
from ._exchange import Exchange as Exchange
from ._exchange import ExchangeOutcome as ExchangeOutcome
from ._exchange import Handler as Handler
from ._exchange import forward as forward
from ._log import make_logger as make_logger
from ._settings import Binding as Binding
from ._settings import Policy as Policy
from ._settings import Route as Route
from ._settings import Settings as Settings
from ._settings import Upstream as Upstream
from ._verdict import Verdict as Verdict

__all__ = [
    "Answer",
    "App",
    "Binding",
    "CallOutcome",
    "Exchange",
    "ExchangeOutcome",
    "forward",
    "Handler",
    "make_logger",
    "Policy",
    "Route",
    "Settings",
    "Upstream",
    "Verdict",
]
