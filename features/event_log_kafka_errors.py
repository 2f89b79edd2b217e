"""What the errors of the Kafka client mean to whoever runs the service: a sentence and the next step. It imports no
client (the kinds are known by name) and raises nothing.
"""

from __future__ import annotations

import socket

from features.event_log_kafka_url import KafkaAddress

_ADVICE = {
    "SaslAuthenticationFailedError": "check log_user, log_password and sasl= of log_url",
    "UnsupportedSaslMechanismError": "the broker does not offer this mechanism: change sasl= of log_url",
    "AuthorizationError": "give the user the ACLs Describe, Read and Write on the log's topics",
    "UnknownTopicOrPartitionError": "make the topics: repl-ranker topics",
    "MessageSizeTooLargeError": "the topic's max.message.bytes is too small",
    "RecordListTooLargeError": "the topic's max.message.bytes is too small",
    "InvalidTimestampError": "is this machine's clock right?",
    "InvalidReplicationFactorError": "there are fewer brokers than copies were asked for: lower --replication",
    "NotEnoughReplicasError": "bring the other brokers back",
    "NotEnoughReplicasAfterAppendError": "bring the other brokers back",
    "CorruptRecordError": "the broker's disk or the network damages records: look at the broker's log",
}


def said(error: BaseException) -> str:
    """The error in words, with its kind."""
    name = type(error).__name__.removesuffix("Error")
    return f"{name}: {error}" if str(error) and name not in str(error) else str(error) or name


def hint(error: BaseException, address: KafkaAddress) -> str:
    """What to do next. Where the error does not tell, it tries for a second each whether anybody listens there."""
    for kind in type(error).__mro__:
        if kind.__name__ in _ADVICE:
            return _ADVICE[kind.__name__]
    deaf = [server for server in address.servers if not _listens(server)]
    if len(deaf) == len(address.servers):
        return f"nobody listens at {', '.join(deaf)}: is the broker running, and host and port of log_url right?"
    let_in = "tls=, sasl=, log_user and log_password" if address.sasl else "tls= and sasl= of log_url"
    return f"somebody listens there, but does not answer us: is it Kafka, and are {let_in} right?"


def _listens(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
    except OSError:
        return False
    return True
