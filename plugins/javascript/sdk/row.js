// A plugin's description, and the rows of a call as columns.
//
// Rows of one event must be written in the order in which they were emitted, whatever other events are in the call. The contract orders them by
// row-batch first. A row therefore goes into a row-batch of its table at or after the row-batch of the event's previous row; if there is none,
// a new one is added. For almost all plugins, that gives one row-batch per table.

/* global KEYFOLD_NAME, KEYFOLD_VERSION */

import { Column, Misuse, integer, kind, longs, text, time } from './columns.js';
import { json as jsonCodec } from './stored.js';

const boolean = (value, what) => {
  if (typeof value !== 'boolean') throw new Misuse(`${what} is ${kind(value)}, not a boolean`);
  return value ? 1 : 0;
};
const float = (value, what) => {
  if (typeof value !== 'number') throw new Misuse(`${what} is ${kind(value)}, not a number`);
  return value;
};
const blob = (value, what) => {
  if (!(value instanceof Uint8Array)) throw new Misuse(`${what} is ${kind(value)}, not a Uint8Array`);
  return value.slice();
};
const list = (of) => (value, what) => {
  if (!Array.isArray(value)) throw new Misuse(`${what} is ${kind(value)}, not an array`);
  return value.map((item, i) => of(item, `${what}[${i}]`));
};

function column(items) {
  const made = new Column();
  made.items = items;
  return made.finish();
}

function lists(rows, finish) {
  const ends = new Uint32Array(rows.length);
  let end = 0;
  rows.forEach((row, i) => (ends[i] = end += row.length));
  return { items: finish(rows.flat()), ends };
}

/** The types of columns: how a cell is checked, the placeholder for null, and how the cells become the contract's column. */
const TYPES = {
  boolean: { check: boolean, nothing: 0, finish: (cells) => ({ tag: 'booleans', val: new Uint8Array(cells) }) },
  integer: { check: integer, nothing: 0, finish: (cells) => ({ tag: 'integers', val: longs(cells) }) },
  float: { check: float, nothing: 0, finish: (cells) => ({ tag: 'floats', val: new Float64Array(cells) }) },
  timestamp: { check: time, nothing: 0, finish: (cells) => ({ tag: 'timestamps', val: longs(cells) }) },
  text: { check: text, nothing: '', finish: (cells) => ({ tag: 'texts', val: column(cells) }) },
  blob: { check: blob, nothing: '', finish: (cells) => ({ tag: 'blobs', val: column(cells) }) },
  'text-list': { check: list(text), nothing: [], finish: (cells) => ({ tag: 'text-lists', val: lists(cells, column) }) },
  'integer-list': { check: list(integer), nothing: [], finish: (cells) => ({ tag: 'integer-lists', val: lists(cells, longs) }) },
  json: { check: jsonCodec.write, nothing: 'null', finish: (cells) => ({ tag: 'json', val: column(cells) }) },
};

/** Checks a plugin's definition, and returns its description. An error here fails the build. */
export function described(definition) {
  for (const name of ['map', 'onEvent', 'onTimer']) {
    if (typeof definition[name] !== 'function') throw new Misuse(`plugin({..}): ${name} is ${kind(definition[name])}, not a function`);
  }
  const given = typeof definition.describe === 'function' ? definition.describe() : definition.describe;
  if (typeof given !== 'object' || given === null) throw new Misuse(`plugin({..}): describe is ${kind(given)}, not an object`);
  const tables = Object.entries(given.tables ?? {}).map(([name, table]) => {
    const columns = (of, primaryKey) =>
      Object.entries(of ?? {}).map(([column, type]) => {
        if (!Object.hasOwn(TYPES, type)) {
          throw new Misuse(`table ${name}: the type of ${column} is ${JSON.stringify(type)}, not one of ${Object.keys(TYPES).join(', ')}`);
        }
        return { name: column, kind: type, primaryKey };
      });
    return { name, columns: [...columns(table.key, true), ...columns(table.columns, false)] };
  });
  const codecs = { event: definition.event ?? jsonCodec, value: definition.value ?? jsonCodec, item: definition.item ?? jsonCodec };
  const raw = {
    name: given.name ?? (typeof KEYFOLD_NAME === 'string' ? KEYFOLD_NAME : 'plugin'),
    version: given.version ?? (typeof KEYFOLD_VERSION === 'string' ? KEYFOLD_VERSION : '0.0.0'),
    stateVersion: given.stateVersion ?? 1,
    tables,
    configSchema: JSON.stringify(withEncodings(given.configSchema ?? { type: 'object' }, codecs)),
    wantsHeaders: given.wantsHeaders ?? false,
  };
  return { raw, tables, codecs };
}

/**
 * Adds to a schema how the state is encoded; the contract has no place of its own for that. The host refuses a deployment with another
 * encoding and the same state version. With this key, a plugin also says that `migrate` from its own version only reads the state.
 */
function withEncodings(schema, { value, item }) {
  if (typeof schema !== 'object' || schema === null) return schema;
  return { ...schema, 'x-keyfold-state': { value: value.encoding, item: item.encoding } };
}

/** The rows of a call. */
export class Rows {
  #tables;
  #batches = [];
  /** The event or key of the call that is being processed. */
  #item = 0;
  /** Index of the row-batch with this item's last row. */
  #last = 0;

  constructor(tables) {
    this.#tables = tables;
  }

  beginItem(item) {
    this.#item = item;
    this.#last = 0;
  }

  /** Removes the rows of the current item. */
  undoItem() {
    for (const batch of this.#batches) {
      let kept = batch.items.length;
      while (kept > 0 && batch.items[kept - 1] === this.#item) kept--;
      batch.items.length = kept;
      for (const column of batch.columns) {
        column.cells.length = kept;
        while (column.nulls.length > 0 && column.nulls.at(-1) >= kept) column.nulls.pop();
      }
    }
  }

  add(name, cells) {
    const table = this.#tables.findIndex((table) => table.name === name);
    if (table < 0) {
      const names = this.#tables.map((table) => table.name).join(', ') || 'none';
      throw new Misuse(`table ${JSON.stringify(name)} is not in the description: its tables are ${names}`);
    }
    const checked = checkedRow(this.#tables[table], cells);
    const batch = this.#batchOf(table);
    const row = batch.items.push(this.#item) - 1;
    batch.columns.forEach((column, i) => {
      column.cells.push(checked[i] === null ? column.type.nothing : checked[i]);
      if (checked[i] === null) column.nulls.push(row);
    });
  }

  #batchOf(table) {
    while (this.#last < this.#batches.length && this.#batches[this.#last].table !== table) this.#last++;
    if (this.#last === this.#batches.length) {
      const columns = this.#tables[table].columns.map(({ kind }) => ({ type: TYPES[kind], cells: [], nulls: [] }));
      this.#batches.push({ table, items: [], columns });
    }
    return this.#batches[this.#last];
  }

  /** Returns the row-batches that are not empty. */
  finish() {
    return this.#batches
      .filter((batch) => batch.items.length > 0)
      .map(({ table, items, columns }) => ({
        table,
        items: new Uint32Array(items),
        columns: columns.map(({ type, cells, nulls }) => ({ data: type.finish(cells), nulls: new Uint32Array(nulls) })),
      }));
  }
}

/** Checks a row. Returns its cells in the order of the columns, converted to the columns' types, or null. */
function checkedRow({ name, columns }, cells) {
  if (typeof cells !== 'object' || cells === null) throw new Misuse(`table ${name}: the row is ${kind(cells)}, not an object with its columns`);
  const checked = columns.map(({ name: column, kind: type, primaryKey }) => {
    const value = cells[column];
    if (value === undefined) throw new Misuse(`table ${name}: the row has no ${column}: if it has no value, set it to null`);
    if (value !== null) return TYPES[type].check(value, `table ${name}: ${column}`);
    if (primaryKey) throw new Misuse(`table ${name}: ${column} is part of the primary key and cannot be null`);
    return null;
  });
  for (const column of Object.keys(cells)) {
    if (!columns.some(({ name }) => name === column)) throw new Misuse(`table ${name}: the row has ${column}, which is not a column of the table`);
  }
  return checked;
}
