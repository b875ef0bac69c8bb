// Reading and writing the contract's columns by item.
//
// Crossing from bytes to text costs the same for one item as for a hundred, so it is done for GROUP of them at a time, wherever all of
// these are ASCII: then an item's place in the bytes is its place in the text.

const GROUP = 64;
const WORD = 4294967296;
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** "No timer" and "no watermark" in the contract's columns, as a number. */
export const NONE = -9223372036854775808;

/** What an author did that cannot be: the message says what to do instead. */
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
    /** The text of the items `first..end`; null if they are not all ASCII. */
    this.group = null;
  }

  get length() {
    return this.ends.length;
  }

  /** Item `i`, in place. */
  bytes(i) {
    return this.data.subarray(i === 0 ? 0 : this.ends[i - 1], this.ends[i]);
  }

  /** Item `i` as text; null if it is not UTF-8. */
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

/** The text of these bytes; null if they are not UTF-8. */
export function decode(bytes) {
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

/** A byte or text column in the making: its items are texts or bytes. */
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

  /** The contract's form of it. */
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

/** The bytes of these items, if all of them are ASCII texts. */
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

/** A column of 64-bit numbers, read in halves: a BigInt for each would cost more than all else. */
export class Longs {
  constructor(column) {
    this.words = new Int32Array(column.buffer, column.byteOffset, column.length * 2);
  }

  /** Number `i`, exact up to 2^53, and `NONE` where there is none. */
  at(i) {
    return this.words[2 * i + 1] * WORD + (this.words[2 * i] >>> 0);
  }

  /** Number `i` for an author. */
  safe(i, what) {
    const number = this.at(i);
    if (!Number.isSafeInteger(number)) throw new Misuse(`${what} is beyond 2^53, which a number cannot hold`);
    return number;
  }
}

/** A column of 64-bit numbers of numbers and BigInts. */
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

/** A text that is one in UTF-8 too. */
export function text(value, what) {
  if (typeof value !== 'string') throw new Misuse(`${what} is ${kind(value)}, not a text`);
  if (!value.isWellFormed()) throw new Misuse(`${what} has half of a surrogate pair, which UTF-8 cannot hold: toWellFormed() replaces it`);
  return value;
}

/** A whole number of 64 bits. */
export function integer(value, what) {
  if (typeof value === 'bigint') {
    if (BigInt.asIntN(64, value) !== value) throw new Misuse(`${what} is ${value}, which does not fit into 64 bits`);
    return value;
  }
  if (typeof value !== 'number') throw new Misuse(`${what} is ${kind(value)}, not an integer`);
  if (!Number.isInteger(value)) throw new Misuse(`${what} is ${value}, not a whole number`);
  if (!Number.isSafeInteger(value)) {
    throw new Misuse(`${what} is ${value}, and beyond 2^53 a number is not exact: make it a BigInt where it is still exact, as BigInt("...")`);
  }
  return value;
}

/** A time in ms since 1970. */
export function time(value, what) {
  if (Number.isSafeInteger(value)) return value;
  const found = typeof value === 'number' ? value : kind(value);
  throw new Misuse(`${what} is ${found}, not a time: a whole number of ms since 1970`);
}

/** What a value is, in words. */
export function kind(value) {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object') return `an object (${value.constructor?.name ?? 'without a constructor'})`;
  return { string: 'a text', number: 'a number', bigint: 'a BigInt', boolean: 'a boolean', function: 'a function' }[typeof value] ?? typeof value;
}
