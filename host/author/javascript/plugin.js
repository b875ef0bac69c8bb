// @ts-check
// Counts each user's actions in windows of event time. A window begins with the user's first action.
//
// A record is `{"user": <text>, "time": <milliseconds since 1970>}`. A row holds the number of a user's actions in one window.
// `keyfold plugin test` runs the cases in `golden/`. `keyfold plugin build` builds the file that a host runs.

import { json, plugin } from 'keyfold-sdk';

/** The JSON Schema of `plugin.config`. The host checks it before the plugin sees the configuration. */
const configSchema = {
  type: 'object',
  properties: { window: { type: 'integer', minimum: 1, description: 'seconds' } },
  additionalProperties: false,
};

// The plugin. It must keep nothing between calls: everything about a user belongs in the state of the user's key.
export const mapper = plugin({
  describe: {
    // Rows are upserted by primary key, so folding the log again rewrites the same row.
    tables: {
      counts: { key: { user: 'text', until: 'timestamp' }, columns: { actions: 'integer' } },
    },
    configSchema,
  },

  /** The state of a key: the number of its events. State can be anything that JSON can represent. */
  value: /** @type {import('keyfold-sdk').Codec<number>} */ (json()),

  /** Returns the value that the functions below get as their last argument. */
  configure({ window = 60 }) {
    return { windowMs: window * 1000 };
  },

  /** Turns a record into events, each with a key and a time. A thrown error sends the record to the dead letters. */
  map(record, out) {
    const action = record.json();
    if (typeof action?.user !== 'string') throw new Error('user is not a text');
    if (!Number.isSafeInteger(action.time)) throw new Error('time is not in milliseconds');
    out.push(action.user, action.time);
  },

  /** Folds an event into the state of its key. A key has a value, a list and one timer. */
  onEvent(key, event, config) {
    key.put((key.value() ?? 0) + 1);
    if (key.timer() === null) key.setTimer(event.time + config.windowMs);
  },

  /** Runs when the watermark has passed the timer. Events that are earlier than this are late, and the host handles them. */
  onTimer(key, time) {
    key.row('counts', { user: key.name, until: time, actions: key.value() ?? 0 });
    key.clear();
  },
});
