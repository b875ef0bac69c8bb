// @ts-check
// Sessions of page visits. A session ends when its user has no visit for `session_timeout` of event time, and gives one row. This is the
// built-in plugin `builtin:visits` (plugins/visits) in JavaScript. It has the same configuration, rows and state, so a pipeline can switch
// between the two. The only difference: `builtin:visits` rejects documents nested more than 127 levels deep.

import { bytes, plugin, text } from 'keyfold-sdk';
import { sipHash } from './siphash.js';
import { visit } from './visit.js';

const YEAR_MS = 365 * 24 * 3_600_000;
const UNITS_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

const configSchema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'visits',
  type: 'object',
  additionalProperties: false,
  properties: {
    session_timeout: {
      description:
        'A session ends when its user has no visit for this long, in event time. An integer with a unit (ms, s, m, h) or in milliseconds, from 1 ms to 8760 h.',
      default: '50s',
      oneOf: [
        { type: 'string', pattern: '^[0-9]+(ms|s|m|h)$' },
        { type: 'integer', minimum: 1, maximum: YEAR_MS },
      ],
    },
    session_id: {
      description:
        "The input of the hash that is the session's id. record: the user and the session's first record. append-second: the second in which the session's first record was appended.",
      default: 'record',
      enum: ['record', 'append-second'],
    },
  },
};

/** @param {string | number} timeout */
function timeoutMs(timeout) {
  const [, count, unit] = /^([0-9]+)(ms|s|m|h)$/.exec(String(timeout)) ?? [];
  const ms = typeof timeout === 'number' ? timeout : Number(count) * UNITS_MS[/** @type {keyof typeof UNITS_MS} */ (unit)];
  if (Number.isInteger(ms) && ms >= 1 && ms <= YEAR_MS) return ms;
  throw new Error(`session_timeout is ${JSON.stringify(timeout)}, not a duration from 1 ms to 8760 h`);
}

/**
 * Encodes the first record of an open session: append time (i64), partition (u32), offset (u64) and event index (u32), little-endian.
 * @param {import('keyfold-sdk').Event<string>} event
 */
function first(event) {
  const view = new DataView(new ArrayBuffer(24));
  view.setBigInt64(0, BigInt(event.appendTime), true);
  view.setUint32(8, event.partition, true);
  view.setBigUint64(12, BigInt(event.offset), true);
  view.setUint32(20, event.index, true);
  return new Uint8Array(view.buffer);
}

const encoder = new TextEncoder();

/**
 * @param {string} form The input of the hash: `record` or `append-second`.
 * @param {string} user
 * @param {Uint8Array} first
 */
function sessionId(form, user, first) {
  if (form === 'append-second') {
    const appendTime = Number(new DataView(first.buffer).getBigInt64(0, true));
    return sipHash(encoder.encode(String(Math.floor(appendTime / 1000) * 1000)));
  }
  const name = encoder.encode(user);
  const hashed = new Uint8Array(name.length + 1 + first.length);
  hashed.set(name);
  hashed.set(first, name.length + 1);
  return sipHash(hashed);
}

export const mapper = plugin({
  describe: {
    tables: { sessions: { key: { session_id: 'integer', user_id: 'integer' }, columns: { pages: 'text-list' } } },
    configSchema,
  },
  event: text,
  value: bytes,
  item: text,

  configure({ session_timeout = '50s', session_id = 'record' }) {
    return { timeoutMs: timeoutMs(session_timeout), form: session_id };
  },

  map(record, out) {
    const { user, page, time } = visit(record.text());
    out.push(user, time, page);
  },

  onEvent(key, event, config) {
    if (key.value() === undefined) key.put(first(event));
    key.append(event.value());
    key.setTimer((event.watermark ?? event.time) + config.timeoutMs);
  },

  onTimer(key, time, config) {
    const first = key.value();
    if (first === undefined) throw new Error('the timer fired, but the user has no open session');
    key.row('sessions', { session_id: sessionId(config.form, key.name, first), user_id: BigInt(key.name), pages: key.items() });
    key.clear();
  },
});
