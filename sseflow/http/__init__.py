"""HTTP/1.1 on Trio, with h11 as the judge: a server's leg, a client's leg, and what stands between them and bytes."""

from ._chunked import BodyError as BodyError
from ._chunked import IncompleteBody as IncompleteBody
from ._codec import Chunked as Chunked
from ._codec import Counted as Counted
from ._codec import Framing as Framing
from ._codec import NoBody as NoBody
from ._codec import UntilClose as UntilClose
from ._codec import frame_chunk as frame_chunk
from ._codec import last_chunk as last_chunk
from ._coding import CODINGS as CODINGS
from ._coding import DEFAULT_MAX_DECODED as DEFAULT_MAX_DECODED
from ._coding import DEFAULT_MAX_RATIO as DEFAULT_MAX_RATIO
from ._coding import Decoder as Decoder
from ._coding import Encoder as Encoder
from ._coding import negotiate as negotiate
from ._connect import ConnectOptions as ConnectOptions
from ._connect import Origin as Origin
from ._connect import connect as connect
from ._connect import proxy_for as proxy_for
from ._decoded import Decoded as Decoded
from ._destinations import Network as Network
from ._destinations import may_lead_to as may_lead_to
from ._guard import HeadLimits as HeadLimits
from ._guard import split_absolute as split_absolute
from ._listen import Address as Address
from ._listen import Listener as Listener
from ._listen import Server as Server
from ._listen import listen as listen
from ._listen import share as share
from ._messages import Headers as Headers
from ._messages import Request as Request
from ._messages import Response as Response
from ._messages import connection_options as connection_options
from ._pool import Call as Call
from ._pool import Dial as Dial
from ._pool import Pool as Pool
from ._pool import PoolOptions as PoolOptions
from ._server import Incoming as Incoming
from ._server import ServerConnection as ServerConnection
from ._server import ServerLimits as ServerLimits
from ._server import WriteTimeout as WriteTimeout
from ._tls import TlsWire as TlsWire
from ._tls import Wire as Wire
from ._wire import SocketWire as SocketWire

__all__ = [
    "Address",
    "BodyError",
    "Call",
    "Chunked",
    "CODINGS",
    "connect",
    "connection_options",
    "ConnectOptions",
    "Counted",
    "Decoded",
    "Decoder",
    "DEFAULT_MAX_DECODED",
    "DEFAULT_MAX_RATIO",
    "Encoder",
    "frame_chunk",
    "Framing",
    "Headers",
    "HeadLimits",
    "Incoming",
    "IncompleteBody",
    "last_chunk",
    "listen",
    "Listener",
    "may_lead_to",
    "negotiate",
    "Network",
    "NoBody",
    "Origin",
    "Pool",
    "PoolOptions",
    "proxy_for",
    "Request",
    "Response",
    "Server",
    "ServerConnection",
    "ServerLimits",
    "share",
    "SocketWire",
    "split_absolute",
    "UntilClose",
    "Wire",
    "WriteTimeout",
]
