// Reading and writing the contract's columns by item.
//
// Converting bytes to a string costs about the same for one item as for a hundred. So GROUP items are converted at a time, if all of them are
// ASCII: then an item has the same position in the string as in the bytes.

const GROUP = 64;
const WORD = 4294967296;
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** The number that means "no timer" or "no watermark" in the contract's columns. */
export const NO_TIME = -9223372036854775808;

/** A mistake of the plugin's author. The message says what to do instead. */
export class Misuse extends TypeError {
  get name() {
    return 'Misuse';
  }
}

/** A byte or text column of a call. */
export class Items {
  constructor({ data, ends }) {
    this.data = data;
    this.ends = ends;
    this.first = 0;
    this.end = 0;
    this.base = 0;
    /** The string of the items `first..end`; null if they are not all ASCII. */
    this.group = null;
  }

  get length() {
    return this.ends.length;
  }

  /** Returns item `i` without a copy. */
  bytes(i) {
    return this.data.subarray(i === 0 ? 0 : this.ends[i - 1], this.ends[i]);
  }

  /** Returns item `i` as a string; null if it is not UTF-8. */
  text(i) {
    if (i < this.first || i >= this.end) this.load(i);
    if (this.group === null) return decode(this.bytes(i));
    return this.group.slice((i === 0 ? 0 : this.ends[i - 1]) - this.base, this.ends[i] - this.base);
  }

  load(i) {
    this.first = i;
    this.end = Math.min(i + GROUP, this.ends.length);
    this.base = i === 0 ? 0 : this.ends[i - 1];
    const bytes = this.data.subarray(this.base, this.ends[this.end - 1]);
    this.group = decode(bytes);
    if (this.group !== null && this.group.length !== bytes.length) this.group = null;
  }
}

/** Decodes bytes to a string; null if they are not UTF-8. */
export function decode(bytes) {
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

/** A byte or text column that is being built. Its items are strings or bytes. */
export class Column {
  constructor() {
    this.items = [];
  }

  get length() {
    return this.items.length;
  }

  push(item) {
    this.items.push(item);
  }

  truncate(length) {
    this.items.length = length;
  }

  remove(first, until) {
    this.items.splice(first, until - first);
  }

  /** Returns the column in the contract's form. */
  finish() {
    const { items } = this;
    const ends = new Uint32Array(items.length);
    const chunks = [];
    let length = 0;
    for (let first = 0; first < items.length; first += GROUP) {
      const end = Math.min(first + GROUP, items.length);
      const whole = chunkOf(items, first, end);
      if (whole !== null) {
        chunks.push(whole);
        for (let i = first; i < end; i++) ends[i] = length += items[i].length;
        continue;
      }
      for (let i = first; i < end; i++) {
        const bytes = typeof items[i] === 'string' ? encoder.encode(items[i]) : items[i];
        chunks.push(bytes);
        ends[i] = length += bytes.length;
      }
    }
    return { data: chunks.length === 1 ? chunks[0] : concatenated(chunks, length), ends };
  }
}

/** Encodes these items, if all of them are ASCII strings; otherwise null. */
function chunkOf(items, first, end) {
  for (let i = first; i < end; i++) {
    if (typeof items[i] !== 'string') return null;
  }
  const text = items.slice(first, end).join('');
  const bytes = encoder.encode(text);
  return bytes.length === text.length ? bytes : null;
}

function concatenated(chunks, length) {
  const data = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    data.set(chunk, at);
    at += chunk.length;
  }
  return data;
}

/** A column of 64-bit integers. It reads them in halves, because a BigInt for each would cost more than everything else. */
export class Longs {
  constructor(column) {
    this.words = new Int32Array(column.buffer, column.byteOffset, column.length * 2);
  }

  /** Returns integer `i`, exact up to 2^53; `NO_TIME` for "none". */
  at(i) {
    return this.words[2 * i + 1] * WORD + (this.words[2 * i] >>> 0);
  }

  /** Returns integer `i` if a number can hold it exactly. */
  safe(i, what) {
    const number = this.at(i);
    if (!Number.isSafeInteger(number)) throw new Misuse(`${what} is beyond 2^53, so a JavaScript number cannot hold it exactly`);
    return number;
  }
}

/** Builds a column of 64-bit integers from numbers and BigInts. */
export function longs(values) {
  const column = new BigInt64Array(values.length);
  const words = new Int32Array(column.buffer);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (typeof value === 'bigint') {
      column[i] = value;
      continue;
    }
    const high = Math.floor(value / WORD);
    words[2 * i + 1] = high;
    words[2 * i] = value - high * WORD;
  }
  return column;
}

/** Checks that a value is a string that UTF-8 can represent. */
export function text(value, what) {
  if (typeof value !== 'string') throw new Misuse(`${what} is ${kind(value)}, not a string`);
  if (!value.isWellFormed()) throw new Misuse(`${what} has half of a surrogate pair, which UTF-8 cannot represent: replace it with toWellFormed()`);
  return value;
}

/** Checks that a value is a 64-bit integer. */
export function integer(value, what) {
  if (typeof value === 'bigint') {
    if (BigInt.asIntN(64, value) !== value) throw new Misuse(`${what} is ${value}, which does not fit into 64 bits`);
    return value;
  }
  if (typeof value !== 'number') throw new Misuse(`${what} is ${kind(value)}, not an integer`);
  if (!Number.isInteger(value)) throw new Misuse(`${what} is ${value}, not an integer`);
  if (!Number.isSafeInteger(value)) {
    throw new Misuse(`${what} is ${value}, but numbers beyond 2^53 are not exact: use a BigInt, and create it from a string`);
  }
  return value;
}

/** Checks that a value is a time in ms since 1970 UTC. */
export function time(value, what) {
  if (Number.isSafeInteger(value)) return value;
  const found = typeof value === 'number' ? value : kind(value);
  throw new Misuse(`${what} is ${found}, not a time: it must be an integer number of ms since 1970`);
}

/** Describes the type of a value for an error message. */
export function kind(value) {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object') return `an object (${value.constructor?.name ?? 'without a constructor'})`;
  return { string: 'a string', number: 'a number', bigint: 'a BigInt', boolean: 'a boolean', function: 'a function' }[typeof value] ?? typeof value;
}
