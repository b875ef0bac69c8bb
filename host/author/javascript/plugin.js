// @ts-check
// Counts what each user does within a window of event time, which begins with the user's first action in it.
//
// A record is `{"user": <text>, "time": <milliseconds since 1970>}`; a row says how many of them a user had in a window.
// `keyfold plugin test` runs the cases in `golden/`, `keyfold plugin build` makes the file that a host takes.

import { json, plugin } from 'keyfold-sdk';

/** What the host's configuration says under `plugin.config`, which is held against this before the plugin sees it. */
const configSchema = {
  type: 'object',
  properties: { window: { type: 'integer', minimum: 1, description: 'seconds' } },
  additionalProperties: false,
};

// The plugin. It must keep nothing between calls: what is known of a user lies in the user's key.
export const mapper = plugin({
  describe: {
    // A row is written by its primary key: folding the log again overwrites it with itself.
    tables: {
      counts: { key: { user: 'text', until: 'timestamp' }, columns: { actions: 'integer' } },
    },
    configSchema,
  },

  /** What is kept of a key: how many events there were. Whatever JSON can carry can be kept. */
  value: /** @type {import('keyfold-sdk').Codec<number>} */ (json()),

  /** The functions below get what this returns. */
  configure({ window = 60 }) {
    return { windowMs: window * 1000 };
  },

  /** A record becomes events, each with a key and a time. What is thrown goes to the dead letters with the record. */
  map(record, out) {
    const action = record.json();
    if (typeof action?.user !== 'string') throw new Error('user is not a text');
    if (!Number.isSafeInteger(action.time)) throw new Error('time is not in milliseconds');
    out.push(action.user, action.time);
  },

  /** An event is folded into its key. A key has a value, a list and one timer. */
  onEvent(key, event, config) {
    key.put((key.value() ?? 0) + 1);
    if (key.timer() === null) key.setTimer(event.time + config.windowMs);
  },

  /** The watermark has passed the timer: no earlier event will come, but late ones, which the host judges. */
  onTimer(key, time) {
    key.row('counts', { user: key.name, until: time, actions: key.value() ?? 0 });
    key.clear();
  },
});
