"""Live with upstreams that fail: keys, retries, circuit breakers, hedges. For every client, not for the proxy alone."""

from ._breaker import Breaker as Breaker
from ._breaker import BreakerOptions as BreakerOptions
from ._breaker import Breakers as Breakers
from ._breaker import BreakerState as BreakerState
from ._breaker import CircuitOpen as CircuitOpen
from ._breaker import Permit as Permit
from ._breaker import is_failure as is_failure
from ._budget import RetryBudget as RetryBudget
from ._chain import ChainRecovery as ChainRecovery
from ._classify import Classification as Classification
from ._classify import Kind as Kind
from ._classify import NotCalled as NotCalled
from ._classify import carry as carry
from ._classify import classify as classify
from ._classify import empty_answer as empty_answer
from ._hedge import Latencies as Latencies
from ._hedge import Leg as Leg
from ._hedge import LegEnding as LegEnding
from ._hedge import LegOutcome as LegOutcome
from ._hedge import hedged as hedged
from ._keys import DuplicateKeys as DuplicateKeys
from ._keys import Exhausted as Exhausted
from ._keys import Judgement as Judgement
from ._keys import KeyPool as KeyPool
from ._keys import KeysExhausted as KeysExhausted
from ._keys import KeyState as KeyState
from ._keys import KeyView as KeyView
from ._keys import NoKeys as NoKeys
from ._keys import Reason as Reason
from ._keys import Walk as Walk
from ._retry import Attempt as Attempt
from ._retry import Delivered as Delivered
from ._retry import Retry as Retry
from ._retry import RetryCounter as RetryCounter
from ._retry import RetryLabels as RetryLabels
from ._retry import RetryPolicy as RetryPolicy
from ._retry import retrying as retrying
from ._retry_after import retry_after as retry_after
from ._secret import Secret as Secret

__all__ = [
    "Attempt",
    "Breaker",
    "BreakerOptions",
    "Breakers",
    "BreakerState",
    "carry",
    "ChainRecovery",
    "CircuitOpen",
    "Classification",
    "classify",
    "Delivered",
    "DuplicateKeys",
    "empty_answer",
    "Exhausted",
    "hedged",
    "is_failure",
    "Judgement",
    "KeyPool",
    "KeysExhausted",
    "KeyState",
    "KeyView",
    "Kind",
    "Latencies",
    "Leg",
    "LegEnding",
    "LegOutcome",
    "NoKeys",
    "NotCalled",
    "Permit",
    "Reason",
    "Retry",
    "retry_after",
    "RetryBudget",
    "RetryCounter",
    "retrying",
    "RetryLabels",
    "RetryPolicy",
    "Secret",
    "Walk",
]
