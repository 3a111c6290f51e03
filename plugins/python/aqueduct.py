"""What an Aqueduct plugin in Python is written with. `aqueduct plugin new --lang python` copies this file beside `app.py`.

Write a class with the methods of `Source`, `Sink` or `Transform`, and export it at the end of `app.py`:

    Source = aqueduct.source(MySource)

componentize-py finds the name `Source` (or `Sink`, `Transform`). Everything here but `http`, `secret`, `env` and `state` also
works outside of WebAssembly, for unit tests.
"""

import json
import struct
import time

try:
    from componentize_py_types import Err
    from wit_world.imports import environment as _environment
    from wit_world.imports import metrics as _metrics
    from wit_world.imports import runtime as _runtime
    from wit_world.imports import types as _types
except ImportError:  # in a unit test
    _environment = _metrics = _runtime = _types = None

    class Err(Exception):
        def __init__(self, value):
            self.value = value


# A sink's world has no state, a transform's neither state nor secrets nor HTTP.
try:
    from wit_world.imports import http as _http
    from wit_world.imports import secrets as _secrets
except ImportError:
    _http = _secrets = None
try:
    from wit_world.imports import state as _state
except ImportError:
    _state = None


class Failure(Exception):
    """Ends the call. `retriable`: the task is closed and opened again later; else it fails until someone acts.

    `code` is stable, of a-z, 0-9 and _: it is shown as plugin.<name>.<code>. Any other exception ends the instance, which is replaced and given the
    same again; its traceback is in the worker's log.
    """

    def __init__(self, code, message, retriable=True):
        super().__init__(message)
        self.code, self.message, self.retriable = code, message, retriable


class NotGranted(Exception):
    """What worker.yaml does not grant, or a call that is not allowed here; the message says which."""


class Offset:
    """Where to resume in one partition of the outside: two flat dicts. `position` None forgets the partition."""

    def __init__(self, partition, position):
        self.partition, self.position = partition, position

    def __eq__(self, other):
        return (self.partition, self.position) == (other.partition, other.position)

    def __repr__(self):
        return f"Offset({self.partition!r}, {self.position!r})"


class Issue:
    """A finding about the config: the option (empty for the whole), what is wrong, and what to do."""

    def __init__(self, path, message, fix=""):
        self.path, self.message, self.fix = path, message, fix


# The frame: plugins/wit/FRAME.md says byte by byte what is in it.

_NULL, _SAME, _NO_TIME = 0xFFFFFFFF, 0xFFFFFFFE, -(1 << 63)
_HEADER, _RECORD = struct.Struct("<4sHHII"), struct.Struct("<qqIIII")
SAME = object()


class Record:
    """What a sink or a transform is given. `key` and `value` are bytes or None; `headers` pairs of a str and bytes or None."""

    __slots__ = ("index", "topic", "partition", "key", "value", "timestamp", "offset", "headers")

    def __init__(self, index, topic, partition, key, value, timestamp, offset, headers):
        self.index, self.topic, self.partition, self.key, self.value = index, topic, partition, key, value
        self.timestamp, self.offset, self.headers = timestamp, offset, headers


def read_frame(frame):
    """The records of a frame, one after another."""
    magic, version, flags, topics, records = _HEADER.unpack_from(frame, 0)
    if magic != b"AQB1" or version != 1 or flags != 0:
        raise ValueError("no frame of version 1")
    at, names = _HEADER.size, []
    for _ in range(topics):
        partition, length = struct.unpack_from("<iH", frame, at)
        names.append((frame[at + 6 : at + 6 + length].decode(), partition if partition >= 0 else None))
        at += 6 + length
    for index in range(records):
        timestamp, offset, topic, key_length, value_length, headers_length = _RECORD.unpack_from(frame, at)
        at += _RECORD.size
        key, at = _part(frame, at, key_length)
        value, at = _part(frame, at, value_length)
        headers = _headers(frame, at) if headers_length else []
        at += headers_length
        name, partition = names[topic]
        yield Record(index, name, partition, key, value, None if timestamp == _NO_TIME else timestamp, offset, headers)


def _part(frame, at, length):
    return (None, at) if length == _NULL else (frame[at : at + length], at + length)


def _headers(frame, at):
    (count,) = struct.unpack_from("<H", frame, at)
    at, headers = at + 2, []
    for _ in range(count):
        (length,) = struct.unpack_from("<H", frame, at)
        name = frame[at + 2 : at + 2 + length].decode()
        (value_length,) = struct.unpack_from("<I", frame, at + 2 + length)
        value, at = _part(frame, at + 6 + length, value_length)
        headers.append((name, value))
    return headers


class Batch:
    """Records on their way out, as a frame."""

    def __init__(self):
        self._topics, self._names, self._records, self.count = [], {}, [], 0

    def record(self, topic, value, key=None, timestamp=None, headers=(), partition=None):
        """A new record: a source's. `key` and `value` are bytes, str or None, `timestamp` milliseconds since the epoch."""
        self._add(self._topic(topic, partition), _bytes(key), _bytes(value), timestamp, -1, _written(headers))

    def _topic(self, name, partition):
        known = self._names.get((name, partition))
        if known is None:
            text = name.encode()
            self._topics.append(struct.pack("<iH", -1 if partition is None else partition, len(text)) + text)
            known = self._names[name, partition] = len(self._topics) - 1
        return known

    def _add(self, topic, key, value, timestamp, offset, headers):
        lengths = [_SAME if part is SAME else _NULL if part is None else len(part) for part in (key, value)]
        headers_length = _SAME if headers is SAME else len(headers)
        time_ms = _NO_TIME if timestamp is None else timestamp
        self._records.append(_RECORD.pack(time_ms, offset, topic, *lengths, headers_length))
        self._records.extend(part for part in (key, value, headers) if part is not None and part is not SAME)
        self.count += 1

    def frame(self):
        header = _HEADER.pack(b"AQB1", 1, 0, len(self._topics), self.count)
        return b"".join([header, *self._topics, *self._records])


def _bytes(value):
    return value.encode() if isinstance(value, str) else value


def _written(headers):
    if not headers:
        return b""
    out = [struct.pack("<H", len(headers))]
    for name, value in headers:
        text, value = name.encode(), _bytes(value)
        out.append(struct.pack("<H", len(text)) + text)
        out.append(struct.pack("<I", _NULL) if value is None else struct.pack("<I", len(value)) + value)
    return b"".join(out)


class Rejects:
    """Records that cannot be taken: they go to the dead letter queue."""

    def __init__(self):
        self.rejected = []

    def reject(self, record, message):
        """Each record once."""
        self.rejected.append((record.index, message))


class Applied(Rejects):
    """What a transform makes of a batch. A record that nothing is said of is dropped."""

    def __init__(self):
        super().__init__()
        self.batch = Batch()

    def keep(self, record):
        """As it is."""
        self.change(record)

    def change(self, record, key=SAME, value=SAME, topic=None, timestamp=SAME, headers=SAME):
        """With another key, value, topic, timestamp or headers. The same record may be changed into many."""
        named = _SAME if topic is None else self.batch._topic(topic, None)
        time_ms = record.timestamp if timestamp is SAME else timestamp
        written = SAME if headers is SAME else _written(headers)
        self.batch._add(named, _bytes(key), _bytes(value), time_ms, record.index, written)


class Limits:
    """The bounds of one poll: at most so many records, and about so many bytes; `sleep` keeps to `wait_ms`."""

    def __init__(self, max_records, max_bytes, wait_ms):
        self.max_records, self.max_bytes, self.wait_ms = max_records, max_bytes, wait_ms


class Source:
    """One object for each task. Override `__init__` and `poll`."""

    def __init__(self, config, share, resume):
        """`config` is a dict of the options, `share` a dict of texts from `plan`, `resume` every stored `Offset` of the connector."""

    @staticmethod
    def validate(config):
        """What types alone cannot say: a list of `Issue`. Does not touch the world."""
        return []

    @staticmethod
    def plan(config, tasks_max):
        """One to `tasks_max` dicts of texts, one for each task."""
        return [{}]

    def poll(self, limits):
        """A `Batch`, maybe empty, and a list of `Offset`: where to resume after it. Returns within `limits.wait_ms`."""
        raise NotImplementedError

    def commit(self, durable):
        """The log holds everything up to these."""

    def close(self):
        pass


class Sink:
    """One object for each task. Override `__init__`, `put` and, if `put` does not make records durable, `flush`."""

    def __init__(self, config):
        pass

    @staticmethod
    def validate(config):
        return []

    def put(self, records, rejects):
        """Writes `Record`s in their order. True: they are durable in the target; False: `flush` makes them so."""
        raise NotImplementedError

    def flush(self):
        pass

    def close(self):
        pass


class Transform:
    """One object for each task and place in `transforms`. Override `apply`."""

    def __init__(self, config):
        pass

    @staticmethod
    def validate(config):
        return []

    def apply(self, records, out):
        """Says to `out` (an `Applied`) what becomes of each `Record`."""
        raise NotImplementedError


def _guarded(call):
    """A `Failure` becomes the error of the contract."""

    def guarded(*given):
        try:
            return call(*given)
        except Failure as failure:
            kind = _types.ErrorKind.RETRIABLE if failure.retriable else _types.ErrorKind.FATAL
            raise Err(_types.Error(kind, failure.code, failure.message)) from failure

    return guarded


# componentize-py makes a new object of the exported class for every call: the task, one for each instance, is an attribute of the class.


def _issues(found):
    return [_types.Issue(issue.path, issue.message, issue.fix) for issue in found]


def _read(offsets):
    return [Offset(json.loads(o.partition), None if o.position is None else json.loads(o.position)) for o in offsets]


def source(kind):
    """The class that componentize-py looks for under the name `Source`."""
    from wit_world import exports

    class Exported(exports.Source):
        def validate(self, config):
            return _issues(kind.validate(json.loads(config)))

        @_guarded
        def plan(self, config, tasks_max):
            return [json.dumps(share) for share in kind.plan(json.loads(config), tasks_max)]

        @_guarded
        def open(self, config, share, resume):
            Exported.task = kind(json.loads(config), json.loads(share), _read(resume))

        @_guarded
        def poll(self, limits):
            batch, resume = self.task.poll(Limits(limits.max_records, limits.max_bytes, limits.wait_ms))
            written = [(json.dumps(o.partition), None if o.position is None else json.dumps(o.position)) for o in resume]
            return _wire("source").Polled(batch.frame(), [_types.Offset(*pair) for pair in written])

        @_guarded
        def commit(self, durable):
            self.task.commit(_read(durable))

        @_guarded
        def close(self):
            self.task.close()

    return Exported


def sink(kind):
    """The class that componentize-py looks for under the name `Sink`."""
    from wit_world import exports

    class Exported(exports.Sink):
        def validate(self, config):
            return _issues(kind.validate(json.loads(config)))

        @_guarded
        def open(self, config):
            Exported.task = kind(json.loads(config))

        @_guarded
        def put(self, batch):
            rejects = Rejects()
            durable = self.task.put(read_frame(batch), rejects)
            return _wire("sink").PutResult(bool(durable), _rejected(rejects))

        @_guarded
        def flush(self):
            self.task.flush()

        @_guarded
        def close(self):
            self.task.close()

    return Exported


def transform(kind):
    """The class that componentize-py looks for under the name `Transform`."""
    from wit_world import exports

    class Exported(exports.Transform):
        def validate(self, config):
            return _issues(kind.validate(json.loads(config)))

        @_guarded
        def open(self, config):
            Exported.task = kind(json.loads(config))

        @_guarded
        def apply(self, batch):
            out = Applied()
            self.task.apply(read_frame(batch), out)
            return _wire("transform").Applied(out.batch.frame(), _rejected(out))

    return Exported


def _wire(name):
    from wit_world import exports

    return getattr(exports, name)


def _rejected(rejects):
    return [_types.Reject(index, message) for index, message in rejects.rejected]


# What a plugin may ask of the host.


def log(message, level="info"):
    """A line for the worker's log; `level` is trace, debug, info, warn or error. `print` writes at info, standard error at warn."""
    if _runtime:
        _runtime.log(_runtime.Level[level.upper()], str(message))


class metrics:
    """Numbers of the task: /metrics shows them as aqueduct_plugin_<name>, with the labels connector, task and plugin besides. Names have 1 to 64 of
    a-z, 0-9 and _, and so have labels, of which there are at most 8; a task has at most 100 series. What breaks a bound is left out, and the log
    says so."""

    @staticmethod
    def set(name, value, **labels):
        """A gauge: what it is now."""
        if _metrics:
            _metrics.set(name, [(label, str(of)) for label, of in labels.items()], float(value))

    @staticmethod
    def add(name, delta=1, **labels):
        """A counter: what is added to it, nothing below 0. It begins at 0 when the task starts, and _total is appended to its name."""
        if _metrics:
            _metrics.add(name, [(label, str(of)) for label, of in labels.items()], float(delta))


def sleep(ms):
    """Waits without holding a thread; only in a source's `poll`. False: return soon."""
    return _runtime.sleep(int(ms)) if _runtime else True


def now_ms():
    """Milliseconds since the epoch."""
    return _runtime.now_ms() if _runtime else time.time_ns() // 1_000_000


def _granted(call, *given):
    try:
        return call(*given)
    except Err as error:
        raise NotGranted(error.value) from None


def env(name):
    """A granted variable of the worker's environment, or None if it is not set."""
    return _granted(_environment.variable, name)


def secret(name):
    """A text that worker.yaml gives by allow.secrets.<name>."""
    return _granted(_secrets.get, name)


class state:
    """What a source remembers beyond its offsets: stored in the same commit as the batch of the poll that returns next."""

    @staticmethod
    def get(key):
        return _granted(_state.get, key)

    @staticmethod
    def set(key, value):
        """1 to 256 bytes of key, at most 64 KiB of value (bytes or str), 1 MiB in all."""
        _granted(_state.set, key, _bytes(value))

    @staticmethod
    def delete(key):
        _granted(_state.delete, key)

    @staticmethod
    def keys():
        return _granted(_state.keys)


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def http(url, method="GET", headers=(), body=b"", timeout_ms=10_000):
    """Sends a request to a granted host; not in `validate`, `plan` or a transform. Redirects are not followed. A status such as 500 is an answer;
    no answer is a `Failure` that is tried again, a host that is not granted one that is not."""
    try:
        answer = _http.send(_http.Request(method, url, list(headers), _bytes(body), timeout_ms))
    except Err as error:
        kind, why = type(error.value).__name__, error.value.value
        raise Failure("http_failed", why, retriable=kind.endswith("Failed")) from None
    return Response(answer.status, [(name, bytes(value)) for name, value in answer.headers], bytes(answer.body))
