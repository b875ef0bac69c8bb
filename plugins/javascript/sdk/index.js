// Write keyfold plugins in JavaScript or TypeScript. `plugin()` implements the contract (wit/keyfold.wit) with an author's functions. For every
// plugin, it stops a key's fold when its timer is due (`consumed`), writes the change codes, keeps rows in order, and undoes everything that
// a rejected record, event or firing did.

import { Column, Items, Longs, Misuse, NO_TIME, integer, kind, longs, text, time } from './columns.js';
import { Draft } from './draft.js';
import { callError, reason } from './reason.js';
import { Rows, described } from './row.js';
import { consoleLog } from './law.js';
import { bytes as bytesCodec, json as jsonCodec, text as textCodec } from './stored.js';

/** @type {import('./index.d.ts').json} */
export const json = () => jsonCodec;
export const bytes = bytesCodec;
const asText = textCodec;
export { asText as text };

const LEVELS = { error: 0, warn: 1, info: 2, debug: 3 };

/** One record of the log. One object serves all records of a call. */
class Record {
  #batch;
  #row = -1;
  #keys;
  #payloads;
  #offsets;
  #appendTimes;
  #noKey = 0;
  #noPayload = 0;

  constructor(batch) {
    this.#batch = batch;
    this.#keys = new Items(batch.keys);
    this.#payloads = new Items(batch.payloads);
    this.#offsets = new Longs(batch.offsets);
    this.#appendTimes = new Longs(batch.appendTimes);
  }

  /** Moves to the next record. */
  static next(record) {
    const row = ++record.#row;
    const { nullKeys, nullPayloads } = record.#batch;
    while (nullKeys[record.#noKey] < row) record.#noKey++;
    while (nullPayloads[record.#noPayload] < row) record.#noPayload++;
  }

  get partition() {
    return this.#batch.partitions[this.#row];
  }

  get offset() {
    return this.#offsets.safe(this.#row, 'the offset');
  }

  get appendTime() {
    return this.#appendTimes.safe(this.#row, 'the append time');
  }

  get #isTombstone() {
    return this.#batch.nullPayloads[this.#noPayload] === this.#row;
  }

  get key() {
    return this.#batch.nullKeys[this.#noKey] === this.#row ? null : this.#keys.bytes(this.#row);
  }

  get payload() {
    return this.#isTombstone ? null : this.#payloads.bytes(this.#row);
  }

  text() {
    if (this.#isTombstone) throw new Error('payload is missing: the record is a tombstone');
    const text = this.#payloads.text(this.#row);
    if (text === null) throw new Error('payload is not UTF-8');
    return text;
  }

  json() {
    const text = this.text();
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new Error(`payload is not JSON: ${error.message}`);
    }
  }

  headers() {
    const { headers } = this.#batch;
    if (!headers) return [];
    const names = new Items(headers.names);
    const values = new Items(headers.values);
    const found = [];
    for (let i = this.#row === 0 ? 0 : headers.ends[this.#row - 1]; i < headers.ends[this.#row]; i++) {
      found.push([names.text(i), values.bytes(i)]);
    }
    return found;
  }
}

/** Collects the events of a record in `map`. */
class Events {
  /** @type {number[]} */ records = [];
  keys = new Column();
  /** @type {number[]} */ times = [];
  values = new Column();
  record = 0;
  /** The object that `map` receives. */
  out;

  constructor(codec, lines) {
    const push = (key, at, value) => {
      const name = typeof key === 'string' ? text(key, 'the key') : decimal(key);
      const written = value === undefined ? '' : codec.write(value, "the event's value");
      this.times.push(time(at, "the event's time"));
      this.records.push(this.record);
      this.keys.push(name);
      this.values.push(written);
    };
    this.out = Object.freeze({ push, log: logger(lines) });
  }

  truncate(length) {
    this.records.length = length;
    this.times.length = length;
    this.keys.truncate(length);
    this.values.truncate(length);
  }
}

function decimal(key) {
  if (typeof key !== 'number' && typeof key !== 'bigint') throw new Misuse(`the key is ${kind(key)}, not a string or an integer`);
  return String(integer(key, 'the key'));
}

function logger(lines) {
  return (level, message) => {
    const code = LEVELS[level];
    if (code === undefined) throw new Misuse(`log: the level is ${JSON.stringify(level)}, not one of ${Object.keys(LEVELS).join(', ')}`);
    lines.push({ level: code, message: String(message) });
  };
}

/** One event. One object serves all events of a call. */
class Event {
  #batch;
  #i = 0;
  #values;
  #times;
  #watermarks;
  #appendTimes;
  #offsets;
  #codec;

  constructor(batch, codec) {
    this.#batch = batch;
    this.#values = new Items(batch.eventValues);
    this.#times = new Longs(batch.eventTimes);
    this.#watermarks = new Longs(batch.watermarks);
    this.#appendTimes = new Longs(batch.appendTimes);
    this.#offsets = new Longs(batch.offsets);
    this.#codec = codec;
  }

  /** Moves to event `i`. Returns the watermark before it. */
  static at(event, i) {
    event.#i = i;
    return event.#watermarks.at(i);
  }

  value() {
    return this.#codec.read(this.#values, this.#i);
  }

  get time() {
    return this.#times.safe(this.#i, "the event's time");
  }

  get watermark() {
    const watermark = this.#watermarks.at(this.#i);
    return watermark === NO_TIME ? null : watermark;
  }

  get appendTime() {
    return this.#appendTimes.safe(this.#i, 'the append time');
  }

  get partition() {
    return this.#batch.partitions[this.#i];
  }

  get offset() {
    return this.#offsets.safe(this.#i, 'the offset');
  }

  get index() {
    return this.#batch.indexes[this.#i];
  }
}

/** A key: its state, its timer, and the rows that it emits. One object serves all keys of a call. */
class Key {
  #call;
  log;

  constructor(call) {
    this.#call = call;
    this.log = logger(call.logs);
  }

  get name() {
    return this.#call.keys.text(this.#call.key);
  }

  value() {
    return this.#call.draft.read(this.#call.codecs.value);
  }

  put(value) {
    this.#call.draft.put(this.#call.codecs.value.write(value, 'the value'));
  }

  clearValue() {
    this.#call.draft.clearValue();
  }

  append(item) {
    this.#call.draft.append(this.#call.codecs.item.write(item, 'the item'));
  }

  clearItems() {
    this.#call.draft.clearItems();
  }

  clear() {
    this.#call.draft.clearValue();
    this.#call.draft.clearItems();
  }

  items() {
    const { lists } = this.#call;
    if (!lists) throw new Misuse('a list can be read only in onTimer: reading it for every event would cost more the longer it gets');
    const items = [];
    for (let i = this.#call.key === 0 ? 0 : lists.ends[this.#call.key - 1]; i < lists.ends[this.#call.key]; i++) {
      items.push(this.#call.codecs.item.read(lists.items, i));
    }
    return items;
  }

  timer() {
    const { timer } = this.#call.draft;
    return timer === NO_TIME ? null : timer;
  }

  setTimer(at) {
    time(at, "the timer's time");
    if (at <= this.#call.fired) throw new Misuse(`the timer is set for ${at}: in onTimer it must be later than the timer that fired (${this.#call.fired})`);
    this.#call.draft.setTimer(at);
  }

  clearTimer() {
    this.#call.draft.setTimer(NO_TIME);
  }

  row(table, cells) {
    this.#call.rows.add(table, cells);
  }
}

/** A call of `fold` or `on-timer`, and its answer while it is built. */
class Call {
  constructor(spec, batch) {
    this.codecs = spec.codecs;
    this.keys = new Items(batch.keys);
    this.values = new Items(batch.values);
    this.present = batch.valuePresent;
    this.given = new Longs(batch.timers);
    this.key = 0;
    /** In `onTimer`: the time of the timer that fired. A new timer must be later. */
    this.fired = NO_TIME;
    /** In `onTimer`: the list states. */
    this.lists = null;
    this.logs = [];
    this.rejections = [];
    this.draft = new Draft();
    this.rows = new Rows(spec.tables);
    const keys = batch.timers.length;
    this.consumed = new Uint32Array(keys);
    this.valueChanges = new Uint8Array(keys);
    this.listChanges = new Uint8Array(keys);
    this.listEnds = new Uint32Array(keys);
    this.newValues = new Column();
    this.timers = new BigInt64Array(keys);
    this.timerWords = new Int32Array(this.timers.buffer);
    consoleLog.lines = this.logs;
  }

  /** Runs `one` for an event or a firing. If it throws, undoes what it did. Returns whether it was accepted. */
  item(i, one) {
    this.draft.beginEvent();
    this.rows.beginItem(i);
    try {
      refusePromise(one());
      return true;
    } catch (error) {
      this.draft.undo();
      this.rows.undoItem();
      this.rejections.push({ item: i, reason: reason(error) });
      return false;
    }
  }

  endKey(consumed) {
    const { draft, key } = this;
    draft.endKey();
    this.consumed[key] = consumed;
    this.valueChanges[key] = draft.valueChange;
    this.listChanges[key] = draft.listChange;
    this.listEnds[key] = draft.list.length;
    this.newValues.push(draft.written());
    draft.writeTimer(this.timerWords, this.given.words, key);
  }

  end() {
    consoleLog.lines = null;
    return {
      consumed: this.consumed,
      valueChanges: this.valueChanges,
      values: this.newValues.finish(),
      listChanges: this.listChanges,
      listEnds: this.listEnds,
      listItems: this.draft.list.finish(),
      timers: this.timers,
      rows: this.rows.finish(),
      rejections: this.rejections,
      logs: this.logs,
    };
  }
}

function refusePromise(result) {
  if (typeof result?.then !== 'function') return;
  throw new Misuse('the function is async: a plugin cannot wait, so everything must be done when the function returns');
}

/** @type {import('./index.d.ts').plugin} */
export function plugin(definition) {
  const spec = described(definition);
  let config;
  let configured = false;
  const ready = () => {
    if (!configured) throw callError('configure was not called');
  };

  return {
    describe: () => spec.raw,

    configure(text) {
      let given;
      try {
        given = JSON.parse(text);
        config = frozen(definition.configure ? definition.configure(given) : given);
      } catch (error) {
        throw callError(reason(error));
      }
      configured = true;
    },

    mapRecords(batch) {
      ready();
      const logs = [];
      const rejections = [];
      const events = new Events(spec.codecs.event, logs);
      const record = new Record(batch);
      consoleLog.lines = logs;
      for (let row = 0; row < batch.offsets.length; row++) {
        const before = events.records.length;
        events.record = row;
        Record.next(record);
        try {
          refusePromise(definition.map(record, events.out, config));
        } catch (error) {
          events.truncate(before);
          rejections.push({ item: row, reason: reason(error) });
        }
      }
      consoleLog.lines = null;
      return {
        records: new Uint32Array(events.records),
        keys: events.keys.finish(),
        eventTimes: longs(events.times),
        values: events.values.finish(),
        rejections,
        logs,
      };
    },

    fold(batch) {
      ready();
      const call = new Call(spec, batch);
      const key = new Key(call);
      const event = new Event(batch, spec.codecs.event);
      const one = () => definition.onEvent(key, event, config);
      let i = 0;
      for (let k = 0; k < call.consumed.length; k++) {
        const first = i;
        const end = batch.eventEnds[k];
        call.key = k;
        call.draft.beginKey(call, call.given.at(k));
        for (; i < end; i++) {
          const watermark = Event.at(event, i);
          if (call.draft.isDue(watermark)) break;
          call.item(i, one);
        }
        call.endKey(i - first);
        i = end;
      }
      return call.end();
    },

    onTimer(batch) {
      ready();
      const call = new Call(spec, batch);
      call.lists = { items: new Items(batch.listItems), ends: batch.listEnds };
      const key = new Key(call);
      const one = () => definition.onTimer(key, call.given.safe(call.key, "the timer's time"), config);
      for (let k = 0; k < call.consumed.length; k++) {
        call.key = k;
        call.fired = call.given.at(k);
        call.draft.beginKey(call, NO_TIME);
        if (!call.item(k, one)) {
          // A rejected firing clears the key's state.
          call.draft.clearValue();
          call.draft.clearItems();
        }
        call.endKey(0);
      }
      return call.end();
    },

    migrate(version, { values, listItems }) {
      ready();
      try {
        if (version === spec.raw.stateVersion) {
          readable(values, spec.codecs.value, 'the value');
          readable(listItems, spec.codecs.item, 'a list item');
          return { values, listItems };
        }
        return {
          values: migrated(values, spec.codecs.value, 'value', version, definition.migrateValue, config),
          listItems: migrated(listItems, spec.codecs.item, 'list item', version, definition.migrateItem, config),
        };
      } catch (error) {
        throw callError(reason(error));
      }
    },
  };
}

/** Throws if the codec cannot read all items. */
function readable(column, codec, what) {
  const items = new Items(column);
  for (let i = 0; i < items.length; i++) {
    try {
      codec.read(items, i);
    } catch (error) {
      throw new Error(`${what} cannot be read: ${error.message}`);
    }
  }
}

function migrated(column, codec, what, version, one, config) {
  const items = new Items(column);
  const out = new Column();
  for (let i = 0; i < items.length; i++) {
    if (!one) {
      const name = what === 'value' ? 'migrateValue' : 'migrateItem';
      throw new Error(`cannot migrate a ${what} of state version ${version}: the plugin does not define ${name}`);
    }
    const old = { bytes: items.bytes(i), text: () => asText.read(items, i), json: () => jsonCodec.read(items, i) };
    out.push(codec.write(one(version, old, config), `the migrated ${what}`));
  }
  return out.finish();
}

/** Freezes the configuration deeply, so that a plugin cannot keep anything in it from call to call. */
function frozen(value) {
  const isPlain = Array.isArray(value) || [Object.prototype, null].includes(Object.getPrototypeOf(Object(value)));
  if (typeof value !== 'object' || value === null || !isPlain || Object.isFrozen(value)) return value;
  Object.freeze(value);
  Object.values(value).forEach(frozen);
  return value;
}
