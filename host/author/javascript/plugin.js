// @ts-check
// Counts each user's actions in windows of event time. Windows follow each other without gaps: with 60 s, each minute is one. An action at
// the end of a window counts in the next one.
//
// A record is `{"user": <text>, "time": <milliseconds since 1970>}`. A row holds the number of a user's actions in one window.
// `keyfold plugin test` runs the cases in `golden/`. `keyfold plugin build` builds the file that a host runs.

import { json, plugin } from 'keyfold-sdk';

/** The JSON Schema of `plugin.config`. The host checks it before the plugin sees the configuration. */
const configSchema = {
  type: 'object',
  properties: { window: { type: 'integer', minimum: 1, maximum: 31_536_000, description: 'seconds' } },
  additionalProperties: false,
};

/** The end of the window that contains this time. */
const until = (/** @type {number} */ time, /** @type {number} */ windowMs) => Math.floor(time / windowMs) * windowMs + windowMs;

// The plugin. It must keep nothing between calls: everything about a user belongs in the state of a key.
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

  /**
   * Turns a record into events, each with a key and a time. A thrown error sends the record to the dead letters.
   *
   * The key is a window of a user. With the user alone as key, an event would count in whatever window is open when it arrives, because a
   * timer fires some time after the window's end, when the watermark has reached it.
   */
  map(record, out, { windowMs }) {
    const action = record.json();
    if (typeof action?.user !== 'string') throw new Error('user is not a text');
    if (!Number.isSafeInteger(action.time)) throw new Error('time is not in milliseconds');
    out.push(`${until(action.time, windowMs)} ${action.user}`, action.time);
  },

  /** Folds an event into the state of its key. A key has a value, a list and one timer. */
  onEvent(key, event, { windowMs }) {
    key.put((key.value() ?? 0) + 1);
    key.setTimer(until(event.time, windowMs));
  },

  /** Runs when the watermark has passed the timer. Events that are earlier than this are late, and the host handles them. */
  onTimer(key, time) {
    const user = key.name.replace(/^\S+ /, '');
    key.row('counts', { user, until: time, actions: key.value() ?? 0 });
    key.clear();
  },
});
