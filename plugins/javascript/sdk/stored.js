// How values become texts or bytes and come back. What is read is always what a fresh instance would read: a value that was put and is
// changed afterwards is not what was put.

import { Misuse, decode, kind, text as checked } from './columns.js';

function of(text, what) {
  if (text === null) throw new Misuse(`${what} is not UTF-8: another plugin wrote it`);
  return text;
}

/** Any value that JSON can carry. */
export const json = Object.freeze({
  write(value, what) {
    if (value === undefined) throw new Misuse(`${what} is undefined, which JSON cannot carry: null can be kept, and clear() takes away`);
    try {
      return JSON.stringify(value) ?? refuse(value, what);
    } catch (error) {
      throw new Misuse(`${what} cannot be carried by JSON: ${error.message}`);
    }
  },
  read(items, i) {
    const text = of(items.text(i), 'what is stored');
    return text === '' ? undefined : JSON.parse(text);
  },
  again: (written) => JSON.parse(written),
});

function refuse(value, what) {
  throw new Misuse(`${what} is ${kind(value)}, which JSON cannot carry`);
}

/** A text as it is, without the quotes of JSON: cheaper. */
export const text = Object.freeze({
  write: (value, what) => checked(value, what),
  read: (items, i) => of(items.text(i), 'what is stored'),
  again: (written) => written,
});

/** Bytes. */
export const bytes = Object.freeze({
  write(value, what) {
    if (!(value instanceof Uint8Array)) throw new Misuse(`${what} is ${kind(value)}, not a Uint8Array`);
    return value.slice();
  },
  read: (items, i) => items.bytes(i).slice(),
  again: (written) => (typeof written === 'string' ? new Uint8Array(0) : written.slice()),
});
