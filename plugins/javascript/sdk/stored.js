// Codecs: they convert values to strings or bytes and back. Reading always gives what a fresh instance would read. If an object is changed
// after it was put, the stored value does not change.

import { Misuse, decode, kind, text as checked } from './columns.js';

function utf8(text) {
  if (text === null) throw new Misuse('the stored value is not UTF-8: it was written with another codec');
  return text;
}

/** The codec for any value that JSON can represent. */
export const json = Object.freeze({
  encoding: 'json',
  write(value, what) {
    if (value === undefined) throw new Misuse(`${what} is undefined, which JSON cannot represent: use null, or clear() to remove it`);
    let written;
    try {
      written = JSON.stringify(value) ?? refuse(value, what);
    } catch (error) {
      throw error instanceof Misuse ? error : new Misuse(`${what} cannot be represented in JSON: ${error.message}`);
    }
    // Only now, since a value that contains itself does not get here.
    refuseLoss(value, what);
    return written;
  },
  read(items, i) {
    const text = utf8(items.text(i));
    return text === '' ? undefined : JSON.parse(text);
  },
  readBack: (written) => JSON.parse(written),
});

const INSTEAD = {
  Map: 'use an object, or Object.fromEntries(map)',
  Set: 'use an array, or [...set]',
  Uint8Array: 'use the codec `bytes`, or an array',
};

/** Throws for what JSON drops or writes as something else without an error: a Map as {}, NaN as null. */
function refuseLoss(value, what) {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new Misuse(`${what} is ${value}, which JSON would write as null`);
  if (typeof value === 'function' || typeof value === 'symbol') refuse(value, what);
  if (typeof value !== 'object' || value === null || typeof value.toJSON === 'function') return;
  if (Array.isArray(value)) {
    value.forEach((item, i) => (item === undefined ? refuse(item, `${what}[${i}]`) : refuseLoss(item, `${what}[${i}]`)));
    return;
  }
  const type = Object.prototype.toString.call(value).slice(8, -1);
  if (type !== 'Object') {
    throw new Misuse(`${what} is a ${type}, which JSON would write as something else: ${INSTEAD[type] ?? 'use objects and arrays'}`);
  }
  for (const name of Object.keys(value)) refuseLoss(value[name], `${what}.${name}`);
}

function refuse(value, what) {
  throw new Misuse(`${what} is ${kind(value)}, which JSON cannot represent`);
}

/** The codec for strings, written without JSON's quotes. */
export const text = Object.freeze({
  encoding: 'text',
  write: (value, what) => checked(value, what),
  read: (items, i) => utf8(items.text(i)),
  readBack: (written) => written,
});

/** The codec for bytes. */
export const bytes = Object.freeze({
  encoding: 'bytes',
  write(value, what) {
    if (!(value instanceof Uint8Array)) throw new Misuse(`${what} is ${kind(value)}, not a Uint8Array`);
    return value.slice();
  },
  read: (items, i) => items.bytes(i).slice(),
  readBack: (written) => (typeof written === 'string' ? new Uint8Array(0) : written.slice()),
});
