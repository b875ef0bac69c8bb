// Disables everything that would make a result depend on anything but the log. Evaluated before the plugin and the packages that it imports.
//
// The host folds records again: after a crash, in a replay, and for `keyfold replay --against`. The results must be the same each time. The
// engine inside the component has no real clock and no randomness: `Date.now()` would always return the time of the build, and
// `Math.random()` would give the same numbers in every instance. So these functions throw an error that says what to use instead.

/** The lines for the host's log that `console` writes to during a call. */
export const consoleLog = { lines: null };

const clock = 'a plugin has no clock, because its results must depend only on the log; use event.time, event.watermark or record.appendTime';
const randomness =
  'a plugin has no randomness, because its results must depend only on the log; derive a value from the partition and the offset, which together are unique';
const network =
  'a plugin has no network and cannot wait, because its results must depend only on the log; to wait in event time, use key.setTimer()';

function refuse(name, why) {
  return () => {
    throw new Error(`${name} cannot be used: ${why}`);
  };
}

const RealDate = Date;

/** `Date` without the current time. */
function DateWithoutClock(...parts) {
  if (new.target === undefined) throw new Error(`Date() cannot be used: ${clock}`);
  if (parts.length === 0) throw new Error(`new Date() without an argument cannot be used: ${clock}`);
  return Reflect.construct(RealDate, parts, new.target);
}
DateWithoutClock.prototype = RealDate.prototype;
DateWithoutClock.prototype.constructor = DateWithoutClock;
DateWithoutClock.parse = RealDate.parse;
DateWithoutClock.UTC = RealDate.UTC;
DateWithoutClock.now = refuse('Date.now()', clock);
Object.defineProperty(DateWithoutClock, 'name', { value: 'Date' });

/** Installs the replacements. Tests that call a plugin's functions in Node do not call this, because Node itself needs its clock. */
export function enforce() {
  globalThis.Date = DateWithoutClock;
  Math.random = refuse('Math.random()', randomness);
  for (const name of ['setTimeout', 'setInterval', 'setImmediate', 'fetch']) {
    globalThis[name] = refuse(`${name}()`, network);
  }
  replace('performance', { now: refuse('performance.now()', clock) });
  replace('crypto', {
    getRandomValues: refuse('crypto.getRandomValues()', randomness),
    randomUUID: refuse('crypto.randomUUID()', randomness),
  });
  // When garbage is collected depends on what the instance did before.
  delete globalThis.WeakRef;
  delete globalThis.FinalizationRegistry;
  const write = (level) => (...parts) => consoleLog.lines?.push({ level, message: parts.map(formatted).join(' ') });
  replace('console', { error: write(0), warn: write(1), info: write(2), log: write(2), debug: write(3), trace: write(3) });
}

function replace(name, value) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}

function formatted(part) {
  if (typeof part === 'string') return part;
  if (part instanceof Error) return `${part.name}: ${part.message}`;
  try {
    return JSON.stringify(part) ?? String(part);
  } catch {
    return String(part);
  }
}
