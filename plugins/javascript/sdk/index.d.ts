/**
 * Write keyfold plugins in JavaScript or TypeScript.
 *
 * A plugin is `export const mapper = plugin({..})` in `src/plugin.js` or `src/plugin.ts`. Its functions turn records into events (`map`),
 * update the state of each event's key (`onEvent`), and typically write rows when a key's timer fires (`onTimer`).
 *
 * The law: results must not depend on batches. What a plugin gives for a record, an event or a firing must be what a fresh instance would
 * give if it received that one alone. So keep nothing in module variables between calls; keep everything about a key in the key's state.
 *
 * Errors: an exception rejects only the record, event or firing that the function was called for. The host dead-letters it with the
 * exception's message, and everything that the function did for it is undone. A rejected firing also clears the key's state.
 */

/** The type of a column. */
export type ColumnType =
  /** true or false */
  | 'boolean'
  /** A signed 64-bit integer: a safe integer (below 2^53) or a BigInt. */
  | 'integer'
  /** A number. */
  | 'float'
  /** An integer number of milliseconds since 1970 UTC. */
  | 'timestamp'
  | 'text'
  /** Bytes: a Uint8Array. */
  | 'blob'
  | 'text-list'
  | 'integer-list'
  /** Any value that JSON can represent. The sink converts it to the type of the column in the database. */
  | 'json';

/** An output table. Its columns are named as in the database. */
export interface Table {
  /** The columns of the primary key. They are never null, and must be derived from the input alone, so that a replay writes the same rows. */
  key: Readonly<Record<string, ColumnType>>;
  /** The columns that are not part of the primary key. */
  columns?: Readonly<Record<string, ColumnType>>;
}

/** A plugin's description. It is read once, when the plugin is built; a mistake in it fails the build. */
export interface Description<Tables = Readonly<Record<string, Table>>> {
  /** The plugin's name, for humans. Default: the name in package.json. */
  name?: string;
  /** The plugin's version, for humans. Default: the version in package.json. */
  version?: string;
  /**
   * Version of the encoding of values and list items. Default: 1. If you change the encoding, raise the version, and write `migrateValue` and
   * `migrateItem`.
   */
  stateVersion?: number;
  /** The output tables, by name. */
  tables?: Tables;
  /** JSON Schema of the configuration. The host validates the configuration against it. */
  configSchema?: object;
  /** Whether the plugin calls `record.headers()`. If not, headers are not copied into the sandbox. Default: false. */
  wantsHeaders?: boolean;
}

type Cell = {
  boolean: boolean;
  integer: number | bigint;
  float: number;
  timestamp: number;
  text: string;
  blob: Uint8Array;
  'text-list': readonly string[];
  'integer-list': readonly (number | bigint)[];
  json: unknown;
};
type Cells<Columns> = { [Name in keyof Columns]: Columns[Name] extends ColumnType ? Cell[Columns[Name]] : never };
type OrNull<Cells> = { [Name in keyof Cells]: Cells[Name] | null };

/** A row: a value for every column of its table. Columns outside the primary key can be null. */
export type Row<T> = (T extends { key: infer Key } ? Cells<Key> : {}) &
  (T extends { columns: infer Columns extends object } ? OrNull<Cells<Columns>> : {});

/**
 * How a value is converted to bytes and back. A value is encoded when it is put, and decoded each time it is read. So changing an object
 * after putting or reading it does not change the state.
 */
export interface Codec<Value> {
  /**
   * Describes the encoding in a text that changes whenever the encoding does. The host refuses a deployment with another text and the same
   * state version. Without it, the encoding is not compared.
   */
  readonly encoding?: string;
  /** Encodes a value. `what` names it in error messages. */
  readonly write: (value: Value, what: string) => string | Uint8Array;
  /** Decodes item `i` of a column of the host. */
  readonly read: (items: any, i: number) => Value;
  /** Decodes what `write` has returned in the same call. */
  readonly readBack: (written: any) => Value;
}
/** The codec for any value that JSON can represent. It is the default. */
export function json<Value = any>(): Codec<Value>;
/** The codec for strings. It writes them without JSON's quotes, and is faster than `json`. */
export const text: Codec<string>;
/** The codec for bytes. */
export const bytes: Codec<Uint8Array>;

/** The level of a line in the host's log. */
export type Level = 'error' | 'warn' | 'info' | 'debug';
/** Writes a line to the host's log, even if the record, event or firing is rejected later. `console.log` and the like do the same. */
export type Log = (level: Level, message: string) => void;

/** One record of the log. It is valid only until `map` returns. */
export interface LogRecord {
  readonly partition: number;
  readonly offset: number;
  /** The record's timestamp in the log or, if that is lower, the append time of the record before it in the partition; ms since 1970 UTC. */
  readonly appendTime: number;
  /** The record's key, or null. */
  readonly key: Uint8Array | null;
  /** The record's payload; null for a tombstone. */
  readonly payload: Uint8Array | null;
  /** Returns the payload as a string. Throws if there is no payload, or if it is not UTF-8. */
  text(): string;
  /** Parses the payload as JSON. Throws if there is no payload, or if it is not JSON. */
  json(): any;
  /** Returns the headers, as names and values in their order. There are none unless the description sets `wantsHeaders`. */
  headers(): [string, Uint8Array][];
}

/** Collects the events of a record in `map`. */
export interface Events<Value> {
  /** Adds an event, which is folded under `key`. A number is converted to decimal. `time` is when it happened; ms since 1970 UTC. */
  push(key: string | number | bigint, time: number, value?: Value): void;
  readonly log: Log;
}

/** One event to be folded into its key. It is valid only until `onEvent` returns. */
export interface Event<Value> {
  /** Returns the value that `map` gave the event, or undefined. */
  value(): Value;
  /** When the event happened; ms since 1970 UTC. */
  readonly time: number;
  /** The watermark before the event's record; null before the lane's first event. */
  readonly watermark: number | null;
  /** Append time of the event's record; ms since 1970 UTC. */
  readonly appendTime: number;
  readonly partition: number;
  readonly offset: number;
  /** The event's index among the events of its record, from 0. */
  readonly index: number;
}

/** A key: its state, its timer, and the rows that it emits. It is valid only until the function returns. */
export interface Key<Value, Item, Tables> {
  /** The key itself. */
  readonly name: string;
  /** Returns the value, or undefined. */
  value(): Value | undefined;
  /** Sets the value, and replaces the previous one. */
  put(value: Value): void;
  clearValue(): void;
  /** Appends an item to the list. The cost does not depend on the length of the list. */
  append(item: Item): void;
  /** Clears the list. Items that are appended later are kept. */
  clearItems(): void;
  /** Clears the value and the list, but not the timer. The state of a key is kept until it is cleared. */
  clear(): void;
  /** Returns the time of the timer, or null. In `onTimer`, the timer that fired is no longer set. */
  timer(): number | null;
  /**
   * Sets the timer, and replaces the previous one. It fires once the watermark is at or past `time`. In `onTimer`, it must be later than the
   * timer that fired.
   */
  setTimer(time: number): void;
  clearTimer(): void;
  /** Emits a row of one of the description's tables. */
  row<Name extends keyof Tables & string>(table: Name, cells: Row<Tables[Name]>): void;
  readonly log: Log;
}

/** A key whose timer fires. Only here can its list be read. */
export interface Firing<Value, Item, Tables> extends Key<Value, Item, Tables> {
  /** Returns the list as it was when the timer fired, in the order in which the items were appended. */
  items(): Item[];
}

/** State in the encoding of an older version, as bytes, as a string or parsed as JSON. */
export interface Stored {
  readonly bytes: Uint8Array;
  text(): string;
  json(): any;
}

/** The argument of `plugin()`: a plugin's description, codecs and functions. */
export interface PluginDefinition<Config, EventValue, Value, Item, Tables> {
  describe: Description<Tables> | (() => Description<Tables>);
  /** The codec of the value that an event carries from `map` to `onEvent`. Default: JSON. */
  event?: Codec<EventValue>;
  /** The codec of a key's value. Default: JSON. */
  value?: Codec<Value>;
  /** The codec of an item of a key's list. Default: JSON. */
  item?: Codec<Item>;
  /**
   * Receives the pipeline's `plugin.config`. The functions below receive what it returns. Plain objects and arrays in it are frozen. An exception
   * rejects the configuration.
   */
  configure?(config: any): Config;
  /** Turns a record into events: none, one or several. */
  map(record: LogRecord, out: Events<EventValue>, config: Config): void;
  /** Folds an event into its key. */
  onEvent(key: Key<Value, Item, Tables>, event: Event<EventValue>, config: Config): void;
  /** Handles the key's timer, which was set for `time` and fires now. */
  onTimer(key: Firing<Value, Item, Tables>, time: number, config: Config): void;
  /** Converts a value from an older state version to the current one. */
  migrateValue?(version: number, old: Stored, config: Config): Value;
  /** Converts a list item from an older state version to the current one. */
  migrateItem?(version: number, old: Stored, config: Config): Item;
}

/** The contract's interface, which `plugin()` implements. */
export interface Mapper {
  describe(): unknown;
  configure(config: string): void;
  mapRecords(records: any): any;
  fold(batch: any): any;
  onTimer(batch: any): any;
  migrate(stateVersion: number, states: any): any;
}

/** Creates a plugin: `export const mapper = plugin({..})`. */
export function plugin<
  const Tables extends Readonly<Record<string, Table>>,
  Config = any,
  EventValue = any,
  Value = any,
  Item = any,
>(definition: PluginDefinition<Config, EventValue, Value, Item, Tables>): Mapper;
