/**
 * Write keyfold plugins in JavaScript or TypeScript.
 *
 * A plugin is `export const mapper = plugin({..})` in `src/plugin.js` or `src/plugin.ts`. It says what records mean (`map`), what is kept
 * of each key (`onEvent`), and what is written when a key's timer fires (`onTimer`).
 *
 * The law: what is said of a record, an event or a firing must be what a fresh instance, given that one alone, would say. So nothing is
 * kept in variables of the module between calls; what is known of a key lies in the key.
 *
 * Errors: what a function throws rejects just the record, event or firing that it was called for. The message goes to the dead letters
 * with it, and what the function did before is undone. A rejected firing takes the key's state with it.
 */

/** What a column of a table holds. */
export type ColumnType =
  /** true or false */
  | 'boolean'
  /** Signed 64 bits: a whole number up to 2^53, or a BigInt. */
  | 'integer'
  /** A number. */
  | 'float'
  /** A whole number of milliseconds since 1970 UTC. */
  | 'timestamp'
  | 'text'
  /** Bytes: a Uint8Array. */
  | 'blob'
  | 'text-list'
  | 'integer-list'
  /** Any value that JSON can carry; the sink converts it by the type of the column in the database. */
  | 'json';

/** A table that rows go to. Its columns have their names in the database. */
export interface Table {
  /** The primary key: never null, and made of the input alone, so that the same rows come again in a replay. */
  key: Readonly<Record<string, ColumnType>>;
  /** The columns outside the primary key. */
  columns?: Readonly<Record<string, ColumnType>>;
}

/** What a plugin says of itself. It is read once, when the plugin is built: a mistake in it ends the build. */
export interface Description<Tables = Readonly<Record<string, Table>>> {
  /** For people; that of package.json if nothing is said. */
  name?: string;
  /** For people; that of package.json if nothing is said. */
  version?: string;
  /** Version of the encoding of values and list items, 1 if nothing is said: raise it with them, and write `migrateValue`, `migrateItem`. */
  stateVersion?: number;
  /** The tables, by their names. */
  tables?: Tables;
  /** JSON Schema of the configuration, which the host holds it against. */
  configSchema?: object;
  /** Whether `record.headers()` is wanted: they are not copied otherwise. */
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

/** A row: all columns of its table; null where a column outside the primary key has no value. */
export type Row<T> = (T extends { key: infer Key } ? Cells<Key> : {}) &
  (T extends { columns: infer Columns extends object } ? OrNull<Cells<Columns>> : {});

/** How a value is kept. Values are written when they are put and read anew each time: to change what was read or put changes nothing. */
export interface Codec<Value> {
  readonly write: (value: Value, what: string) => string | Uint8Array;
  readonly read: (items: any, i: number) => Value;
  readonly again: (written: any) => Value;
}
/** Whatever JSON can carry: what is kept if nothing else is said. */
export function json<Value = any>(): Codec<Value>;
/** A text as it is, without the quotes of JSON: cheaper. */
export const text: Codec<string>;
/** Bytes. */
export const bytes: Codec<Uint8Array>;

/** How much a line in the host's log matters. */
export type Level = 'error' | 'warn' | 'info' | 'debug';
/** Says something in the host's log; `console.log` and its like do too. It stays said if the record, event or firing is rejected. */
export type Log = (level: Level, message: string) => void;

/** One record of the log. It is of use only until `map` returns. */
export interface LogRecord {
  readonly partition: number;
  readonly offset: number;
  /** Its timestamp in the log, made non-decreasing per partition; ms since 1970. */
  readonly appendTime: number;
  /** Its key, if it has one. */
  readonly key: Uint8Array | null;
  /** Its payload; null is a tombstone. */
  readonly payload: Uint8Array | null;
  /** The payload as text; throws where there is none, or none in UTF-8. */
  text(): string;
  /** The payload read as JSON; throws where it is none. */
  json(): any;
  /** The headers in their order: names and values; none unless the description wants them. */
  headers(): [string, Uint8Array][];
}

/** Where `map` puts the events of a record. */
export interface Events<Value> {
  /** One more event of the record: what happened at `time` (ms since 1970 UTC) is folded under `key`; a number is its decimal text. */
  push(key: string | number | bigint, time: number, value?: Value): void;
  readonly log: Log;
}

/** One event, on its way into its key. It is of use only until `onEvent` returns. */
export interface Event<Value> {
  /** What `map` gave it; undefined where it gave nothing. */
  value(): Value;
  /** When it happened; ms since 1970 UTC. */
  readonly time: number;
  /** The watermark before its record; null before the lane's first event. */
  readonly watermark: number | null;
  /** Append time of its record; ms since 1970. */
  readonly appendTime: number;
  readonly partition: number;
  readonly offset: number;
  /** Its place among the events of its record, from 0. */
  readonly index: number;
}

/** A key: its state, its timer, and the rows that it emits. It is of use only until the function returns. */
export interface Key<Value, Item, Tables> {
  /** The key's text. */
  readonly name: string;
  /** The value, if there is one. */
  value(): Value | undefined;
  /** Puts the value, in place of the former one. */
  put(value: Value): void;
  clearValue(): void;
  /** Appends an item to the list, at constant cost however long it is. */
  append(item: Item): void;
  /** Clears the list; items that are appended after this stay. */
  clearItems(): void;
  /** Clears value and list. The timer stays. A key that is never cleared is kept for ever. */
  clear(): void;
  /** The time that the timer is set for, or null. */
  timer(): number | null;
  /** Sets the timer, in place of the former one. It fires once the watermark is at or past `time`. In `onTimer` it must be later than the one that fired. */
  setTimer(time: number): void;
  clearTimer(): void;
  /** Emits a row of a table of the description. */
  row<Name extends keyof Tables & string>(table: Name, cells: Row<Tables[Name]>): void;
  readonly log: Log;
}

/** A key whose timer fires: the only place where its list can be read. */
export interface Firing<Value, Item, Tables> extends Key<Value, Item, Tables> {
  /** The list as it was when the timer fired, in the order in which it was appended. */
  items(): Item[];
}

/** State of a former version, in the forms in which it can be read. */
export interface Stored {
  readonly bytes: Uint8Array;
  text(): string;
  json(): any;
}

/** What an author writes. */
export interface Author<Config, EventValue, Value, Item, Tables> {
  describe: Description<Tables> | (() => Description<Tables>);
  /** How an event carries its value from `map` to `onEvent`; JSON if nothing is said. */
  event?: Codec<EventValue>;
  /** How a key's value is kept; JSON if nothing is said. */
  value?: Codec<Value>;
  /** How an item of a key's list is kept; JSON if nothing is said. */
  item?: Codec<Item>;
  /** Takes the pipeline's `plugin.config`. What it returns is handed to the functions below, and cannot be changed. What it throws refuses the configuration. */
  configure?(config: any): Config;
  /** Makes events of a record: none, one or several. */
  map(record: LogRecord, out: Events<EventValue>, config: Config): void;
  /** Folds an event into its key. */
  onEvent(key: Key<Value, Item, Tables>, event: Event<EventValue>, config: Config): void;
  /** The key's timer, set for `time`, has fired. */
  onTimer(key: Firing<Value, Item, Tables>, time: number, config: Config): void;
  /** Reads a value of a former state version and gives it back as a present one. */
  migrateValue?(version: number, old: Stored, config: Config): Value;
  /** Reads a list item of a former state version and gives it back as a present one. */
  migrateItem?(version: number, old: Stored, config: Config): Item;
}

/** The contract's interface, made of an author's functions. */
export interface Mapper {
  describe(): unknown;
  configure(config: string): void;
  mapRecords(records: any): any;
  fold(batch: any): any;
  onTimer(batch: any): any;
  migrate(stateVersion: number, states: any): any;
}

/** Makes a plugin: `export const mapper = plugin({..})`. */
export function plugin<
  const Tables extends Readonly<Record<string, Table>>,
  Config = any,
  EventValue = any,
  Value = any,
  Item = any,
>(author: Author<Config, EventValue, Value, Item, Tables>): Mapper;
