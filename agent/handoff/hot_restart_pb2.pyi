from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HotRestartMessage(_message.Message):
    __slots__ = ("request", "reply", "didnt_recognize_your_last_message")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    DIDNT_RECOGNIZE_YOUR_LAST_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    request: Request
    reply: Reply
    didnt_recognize_your_last_message: bool
    def __init__(self, request: _Optional[_Union[Request, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., didnt_recognize_your_last_message: bool = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("pass_listen_socket", "shutdown_admin", "stats", "drain_listeners", "terminate", "forwarded_udp_packet", "test_connection")
    class PassListenSocket(_message.Message):
        __slots__ = ("address", "worker_index", "network_namespace")
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        WORKER_INDEX_FIELD_NUMBER: _ClassVar[int]
        NETWORK_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        address: str
        worker_index: int
        network_namespace: str
        def __init__(self, address: _Optional[str] = ..., worker_index: _Optional[int] = ..., network_namespace: _Optional[str] = ...) -> None: ...
    class ShutdownAdmin(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Stats(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class DrainListeners(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Terminate(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class ForwardedUdpPacket(_message.Message):
        __slots__ = ("local_addr", "peer_addr", "receive_time_epoch_microseconds", "payload", "worker_index", "listener_addr", "network_namespace")
        LOCAL_ADDR_FIELD_NUMBER: _ClassVar[int]
        PEER_ADDR_FIELD_NUMBER: _ClassVar[int]
        RECEIVE_TIME_EPOCH_MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        WORKER_INDEX_FIELD_NUMBER: _ClassVar[int]
        LISTENER_ADDR_FIELD_NUMBER: _ClassVar[int]
        NETWORK_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        local_addr: str
        peer_addr: str
        receive_time_epoch_microseconds: int
        payload: bytes
        worker_index: int
        listener_addr: str
        network_namespace: str
        def __init__(self, local_addr: _Optional[str] = ..., peer_addr: _Optional[str] = ..., receive_time_epoch_microseconds: _Optional[int] = ..., payload: _Optional[bytes] = ..., worker_index: _Optional[int] = ..., listener_addr: _Optional[str] = ..., network_namespace: _Optional[str] = ...) -> None: ...
    class TestConnection(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    PASS_LISTEN_SOCKET_FIELD_NUMBER: _ClassVar[int]
    SHUTDOWN_ADMIN_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_LISTENERS_FIELD_NUMBER: _ClassVar[int]
    TERMINATE_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_UDP_PACKET_FIELD_NUMBER: _ClassVar[int]
    TEST_CONNECTION_FIELD_NUMBER: _ClassVar[int]
    pass_listen_socket: Request.PassListenSocket
    shutdown_admin: Request.ShutdownAdmin
    stats: Request.Stats
    drain_listeners: Request.DrainListeners
    terminate: Request.Terminate
    forwarded_udp_packet: Request.ForwardedUdpPacket
    test_connection: Request.TestConnection
    def __init__(self, pass_listen_socket: _Optional[_Union[Request.PassListenSocket, _Mapping]] = ..., shutdown_admin: _Optional[_Union[Request.ShutdownAdmin, _Mapping]] = ..., stats: _Optional[_Union[Request.Stats, _Mapping]] = ..., drain_listeners: _Optional[_Union[Request.DrainListeners, _Mapping]] = ..., terminate: _Optional[_Union[Request.Terminate, _Mapping]] = ..., forwarded_udp_packet: _Optional[_Union[Request.ForwardedUdpPacket, _Mapping]] = ..., test_connection: _Optional[_Union[Request.TestConnection, _Mapping]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("pass_listen_socket", "shutdown_admin", "stats")
    class PassListenSocket(_message.Message):
        __slots__ = ("fd",)
        FD_FIELD_NUMBER: _ClassVar[int]
        fd: int
        def __init__(self, fd: _Optional[int] = ...) -> None: ...
    class ShutdownAdmin(_message.Message):
        __slots__ = ("original_start_time_unix_seconds", "enable_reuse_port_default")
        ORIGINAL_START_TIME_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
        ENABLE_REUSE_PORT_DEFAULT_FIELD_NUMBER: _ClassVar[int]
        original_start_time_unix_seconds: int
        enable_reuse_port_default: bool
        def __init__(self, original_start_time_unix_seconds: _Optional[int] = ..., enable_reuse_port_default: bool = ...) -> None: ...
    class Stats(_message.Message):
        __slots__ = ("memory_allocated", "num_connections", "counter_deltas", "gauges")
        class CounterDeltasEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: int
            def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
        class GaugesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: int
            def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
        MEMORY_ALLOCATED_FIELD_NUMBER: _ClassVar[int]
        NUM_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
        COUNTER_DELTAS_FIELD_NUMBER: _ClassVar[int]
        GAUGES_FIELD_NUMBER: _ClassVar[int]
        memory_allocated: int
        num_connections: int
        counter_deltas: _containers.ScalarMap[str, int]
        gauges: _containers.ScalarMap[str, int]
        def __init__(self, memory_allocated: _Optional[int] = ..., num_connections: _Optional[int] = ..., counter_deltas: _Optional[_Mapping[str, int]] = ..., gauges: _Optional[_Mapping[str, int]] = ...) -> None: ...
    PASS_LISTEN_SOCKET_FIELD_NUMBER: _ClassVar[int]
    SHUTDOWN_ADMIN_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    pass_listen_socket: Reply.PassListenSocket
    shutdown_admin: Reply.ShutdownAdmin
    stats: Reply.Stats
    def __init__(self, pass_listen_socket: _Optional[_Union[Reply.PassListenSocket, _Mapping]] = ..., shutdown_admin: _Optional[_Union[Reply.ShutdownAdmin, _Mapping]] = ..., stats: _Optional[_Union[Reply.Stats, _Mapping]] = ...) -> None: ...
