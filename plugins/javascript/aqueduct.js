// What an Aqueduct plugin in JavaScript is written with. `aqueduct plugin new --lang js` copies this file beside `app.js`.
//
// Write a class with the methods of `Source`, `Sink` or `Transform`, and export it at the end of `app.js`:
//
//     export const transform = aqueduct.transform(MyTransform);
//
// componentize-js looks for the name `source`, `sink` or `transform`. Nothing here calls the host, so that a unit test runs it in Node as it is; what a plugin
// may ask of the host is imported where it is used: `import { log } from "aqueduct:connector/runtime@0.1.0"`.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Ends the call. `retriable`: the task is closed and opened again later; else it fails until someone acts. `code` is stable, of a-z, 0-9 and _: it is
 * shown as plugin.<name>.<code>. Any other error that is thrown ends the instance, which is replaced and given the same again. */
export class Failure extends Error {
  constructor(code, message, { retriable = true } = {}) {
    super(message);
    // What componentize-js takes for the error of the contract.
    this.payload = { kind: retriable ? "retriable" : "fatal", code, message };
  }
}

// The frame: plugins/wit/FRAME.md says byte by byte what is in it.

const NULL = 0xffffffff;
const SAME = 0xfffffffe;
const NO_TIME = -(2n ** 63n);
const MAGIC = 0x31425141; // "AQB1"
const HEADER_BYTES = 16;
const RECORD_BYTES = 32;
/** A part of a record that stays as it is. */
const AS_IT_IS = Symbol("as it is");

/** What a sink or a transform is given. `key` and `value` are Uint8Array or null, `headers` pairs of a string and such a value; `timestamp` is milliseconds since
 * the epoch, or null. `text` and `json` read the value. */
export class Record {
  constructor(index, topic, partition, key, value, timestamp, offset, headers) {
    Object.assign(this, { index, topic, partition, key, value, timestamp, offset, headers });
  }

  text() {
    return this.value === null ? null : decoder.decode(this.value);
  }

  json() {
    return JSON.parse(this.text());
  }
}

/** The records of a frame, one after another. Their bytes are those of the frame, without a copy. */
export function* readFrame(frame) {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (view.getUint32(0, true) !== MAGIC || view.getUint16(4, true) !== 1 || view.getUint16(6, true) !== 0) {
    throw new Error("no frame of version 1");
  }
  const [topics, records] = [view.getUint32(8, true), view.getUint32(12, true)];
  let at = HEADER_BYTES;
  const names = [];
  for (let n = 0; n < topics; n++) {
    const [partition, length] = [view.getInt32(at, true), view.getUint16(at + 4, true)];
    names.push([decoder.decode(frame.subarray(at + 6, at + 6 + length)), partition < 0 ? null : partition]);
    at += 6 + length;
  }
  const part = (length) => {
    if (length === NULL) return null;
    at += length;
    return frame.subarray(at - length, at);
  };
  for (let index = 0; index < records; index++) {
    const [time, offset] = [view.getBigInt64(at, true), view.getBigInt64(at + 8, true)];
    const [topic, keyLength, valueLength, headersLength] = [16, 20, 24, 28].map((field) => view.getUint32(at + field, true));
    at += RECORD_BYTES;
    const [key, value] = [part(keyLength), part(valueLength)];
    const headers = [];
    if (headersLength > 0) {
      const count = view.getUint16(at, true);
      at += 2;
      for (let n = 0; n < count; n++) {
        const length = view.getUint16(at, true);
        const name = decoder.decode(frame.subarray(at + 2, at + 2 + length));
        at += 2 + length + 4;
        headers.push([name, part(view.getUint32(at - 4, true))]);
      }
    }
    const timestamp = time === NO_TIME ? null : Number(time);
    yield new Record(index, names[topic][0], names[topic][1], key, value, timestamp, Number(offset), headers);
  }
}

const bytes = (value) => (typeof value === "string" ? encoder.encode(value) : value);

function writtenHeaders(headers) {
  if (headers.length === 0) return new Uint8Array(0);
  const parts = [u16(headers.length)];
  for (const [name, given] of headers) {
    const [text, value] = [encoder.encode(name), bytes(given)];
    parts.push(u16(text.length), text, u32(value === null ? NULL : value.length));
    if (value !== null) parts.push(value);
  }
  return joined(parts);
}

function u16(number) {
  return new Uint8Array([number, number >> 8]);
}

function u32(number) {
  return new Uint8Array([number, number >> 8, number >> 16, number >> 24]);
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Records on their way out, as a frame. */
export class Batch {
  #topics = [];
  #names = new Map();
  #records = [];
  count = 0;

  /** A new record: a source's. `key` and `value` are Uint8Array, string or null. */
  record(topic, value, { key = null, timestamp = null, headers = [], partition = null } = {}) {
    this.add(this.topic(topic, partition), bytes(key), bytes(value), timestamp, -1, writtenHeaders(headers));
  }

  /** The place of a name in the frame's table. */
  topic(name, partition) {
    const key = JSON.stringify([name, partition]);
    if (!this.#names.has(key)) {
      const text = encoder.encode(name);
      this.#topics.push(u32(partition ?? -1), u16(text.length), text);
      this.#names.set(key, this.#names.size);
    }
    return this.#names.get(key);
  }

  add(topic, key, value, timestamp, offset, headers) {
    const head = new Uint8Array(RECORD_BYTES);
    const view = new DataView(head.buffer);
    view.setBigInt64(0, timestamp === null ? NO_TIME : BigInt(timestamp), true);
    view.setBigInt64(8, BigInt(offset), true);
    view.setUint32(16, topic, true);
    const length = (part) => (part === AS_IT_IS ? SAME : part === null ? NULL : part.length);
    [key, value, headers].forEach((part, n) => view.setUint32(20 + 4 * n, length(part), true));
    this.#records.push(head, ...[key, value, headers].filter((part) => part !== null && part !== AS_IT_IS));
    this.count += 1;
  }

  frame() {
    const head = [u32(MAGIC), u16(1), u16(0), u32(this.#names.size), u32(this.count)];
    return joined([...head, ...this.#topics, ...this.#records]);
  }
}

/** Records that cannot be taken. */
export class Rejects {
  rejected = [];

  /** It goes to the dead letter queue; each record once. */
  reject(record, message) {
    this.rejected.push({ recordIndex: record.index, message });
  }
}

/** What a transform makes of a batch. A record that nothing is said of is dropped. */
export class Applied extends Rejects {
  batch = new Batch();

  /** As it is. */
  keep(record) {
    this.change(record);
  }

  /** With another `key`, `value`, `topic`, `timestamp` or `headers`. The same record may be changed into many. */
  change(record, { key = AS_IT_IS, value = AS_IT_IS, topic, timestamp = record.timestamp, headers = AS_IT_IS } = {}) {
    const named = topic === undefined ? SAME : this.batch.topic(topic, null);
    const written = headers === AS_IT_IS ? headers : writtenHeaders(headers);
    this.batch.add(named, bytes(key), bytes(value), timestamp, record.index, written);
  }
}

/** One object for each task. Override `put`. The methods may be `async`, but for `validate`. */
export class Sink {
  /** `config` is an object of the options. */
  constructor(config) {
    this.config = config;
  }

  /** What types alone cannot say: a list of `{path, message, fix}`. */
  static validate(config) {
    return [];
  }

  /** Writes a batch in its order. True: it and all before it is durable in the target; false: only `flush` makes it so. Records that the target cannot
   * take go to `rejects` (a `Rejects`). */
  put(records, rejects) {
    throw new Error("a sink needs the method put");
  }

  /** Makes all that was put durable. */
  flush() {}

  close() {}
}

/** One object for each task and place in `transforms`. Override `apply`. */
export class Transform {
  /** `config` is an object of the options. */
  constructor(config) {
    this.config = config;
  }

  /** What types alone cannot say: a list of `{path, message, fix}`. */
  static validate(config) {
    return [];
  }

  /** Says to `out` (an `Applied`) what becomes of each `Record`. */
  apply(records, out) {
    throw new Error("a transform needs the method apply");
  }
}

/** One object for each task. Override `poll`. The methods may be `async`, but for `validate` and `plan`. */
export class Source {
  /** `config` is an object of the options, `share` one of texts from `plan`, `resume` every stored `{partition, position}` of the connector. */
  constructor(config, share, resume) {
    Object.assign(this, { config, share, resume });
  }

  static validate(config) {
    return [];
  }

  /** One to `tasksMax` objects of texts, one for each task. Does not touch the world. */
  static plan(config, tasksMax) {
    return [{}];
  }

  /** `{batch, resume}`: a `Batch`, maybe empty, and where to resume after it, a list of `{partition, position}` (two flat objects; a position null
   * forgets the partition). At most `limits.maxRecords` records, within `limits.waitMs`. */
  poll(limits) {
    throw new Error("a source needs the method poll");
  }

  /** The log holds everything up to these. */
  commit(durable) {}

  close() {}
}

const issues = (found) => found.map(({ path = "", message, fix = "" }) => ({ path, message, fix }));
const read = (offsets) =>
  offsets.map(({ partition, position }) => ({
    partition: JSON.parse(partition),
    position: position === undefined || position === null ? null : JSON.parse(position),
  }));
const written = (offsets) =>
  offsets.map(({ partition, position }) => ({
    partition: JSON.stringify(partition),
    position: position === null ? undefined : JSON.stringify(position),
  }));

/** What `fetch` throws when nobody answers is no fault of the plugin's: it is tried again later, as whatever is called may come back. */
async function outside(call) {
  try {
    return await call();
  } catch (error) {
    const isAway = error instanceof TypeError && error.message.startsWith("NetworkError");
    throw isAway ? new Failure("fetch", error.message) : error;
  }
}

/** What componentize-js looks for under the name `sink`. */
export function sink(kind) {
  let task;
  return {
    validate: (config) => issues(kind.validate(JSON.parse(config))),
    open(config) {
      task = new kind(JSON.parse(config));
    },
    async put(frame) {
      const rejects = new Rejects();
      const durable = Boolean(await outside(() => task.put(readFrame(frame), rejects)));
      return { durable, rejected: rejects.rejected };
    },
    async flush() {
      await outside(() => task.flush());
    },
    async close() {
      await outside(() => task.close());
    },
  };
}

/** What componentize-js looks for under the name `transform`. */
export function transform(kind) {
  let task;
  return {
    validate: (config) => issues(kind.validate(JSON.parse(config))),
    open(config) {
      task = new kind(JSON.parse(config));
    },
    apply(frame) {
      const out = new Applied();
      task.apply(readFrame(frame), out);
      return { batch: out.batch.frame(), rejected: out.rejected };
    },
  };
}

/** What componentize-js looks for under the name `source`. */
export function source(kind) {
  let task;
  return {
    validate: (config) => issues(kind.validate(JSON.parse(config))),
    plan: (config, tasksMax) => kind.plan(JSON.parse(config), tasksMax).map((share) => JSON.stringify(share)),
    open(config, share, resume) {
      task = new kind(JSON.parse(config), JSON.parse(share), read(resume));
    },
    async poll(limits) {
      const { batch, resume } = await outside(() => task.poll(limits));
      return { batch: batch.frame(), resume: written(resume) };
    },
    async commit(durable) {
      await outside(() => task.commit(read(durable)));
    },
    async close() {
      await outside(() => task.close());
    },
  };
}
