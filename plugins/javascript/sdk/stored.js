// Codecs: they convert values to strings or bytes and back. Reading always gives what a fresh instance would read. If an object is changed
// after it was put, the stored value does not change.

import { Misuse, decode, kind, text as checked } from './columns.js';

function utf8(text) {
  if (text === null) throw new Misuse('the stored value is not UTF-8: it was written with another codec');
  return text;
}

/** The codec for any value that JSON can represent. */
export const json = Object.freeze({
  write(value, what) {
    if (value === undefined) throw new Misuse(`${what} is undefined, which JSON cannot represent: use null, or clear() to remove it`);
    try {
      return JSON.stringify(value) ?? refuse(value, what);
    } catch (error) {
      throw new Misuse(`${what} cannot be represented in JSON: ${error.message}`);
    }
  },
  read(items, i) {
    const text = utf8(items.text(i));
    return text === '' ? undefined : JSON.parse(text);
  },
  readBack: (written) => JSON.parse(written),
});

function refuse(value, what) {
  throw new Misuse(`${what} is ${kind(value)}, which JSON cannot represent`);
}

/** The codec for strings, written without JSON's quotes. */
export const text = Object.freeze({
  write: (value, what) => checked(value, what),
  read: (items, i) => utf8(items.text(i)),
  readBack: (written) => written,
});

/** The codec for bytes. */
export const bytes = Object.freeze({
  write(value, what) {
    if (!(value instanceof Uint8Array)) throw new Misuse(`${what} is ${kind(value)}, not a Uint8Array`);
    return value.slice();
  },
  read: (items, i) => items.bytes(i).slice(),
  readBack: (written) => (typeof written === 'string' ? new Uint8Array(0) : written.slice()),
});
