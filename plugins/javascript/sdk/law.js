// Takes away what would make a result depend on anything but the log. Evaluated before the plugin and the packages that it imports.
//
// A host folds records again: after a crash, in a replay, under `keyfold replay --against`. What it gets must be the same each time. The
// engine has no clock and no chance to give: `Date.now()` would be the moment of the build for ever, `Math.random()` the same series in
// every instance. Neither is what an author means by them, so they say so.

/** Where `console` writes during a call: lines for the host's log. */
export const said = { lines: null };

const clock = 'a plugin has no clock: what it gives must follow from the log. The times are event.time, event.watermark and record.appendTime';
const chance = 'a plugin has no chance: what it gives must follow from the log. Make it of the record: its partition, offset and time are unique';
const world = 'a plugin has no network, and waits for nothing: what it needs must be in the log. key.setTimer() waits in event time';

function refuse(name, why) {
  return () => {
    throw new Error(`${name} cannot be used: ${why}`);
  };
}

const RealDate = Date;

/** `Date` without the present. */
function LawfulDate(...parts) {
  if (new.target === undefined) throw new Error(`Date() cannot be used: ${clock}`);
  if (parts.length === 0) throw new Error(`new Date() without a time cannot be used: ${clock}`);
  return Reflect.construct(RealDate, parts, new.target);
}
LawfulDate.prototype = RealDate.prototype;
LawfulDate.prototype.constructor = LawfulDate;
LawfulDate.parse = RealDate.parse;
LawfulDate.UTC = RealDate.UTC;
LawfulDate.now = refuse('Date.now()', clock);
Object.defineProperty(LawfulDate, 'name', { value: 'Date' });

/** Takes effect; not in tests of a plugin's functions by Node itself, which needs its clock. */
export function enforce() {
  globalThis.Date = LawfulDate;
  Math.random = refuse('Math.random()', chance);
  for (const name of ['setTimeout', 'setInterval', 'setImmediate', 'fetch']) {
    globalThis[name] = refuse(`${name}()`, world);
  }
  replace('performance', { now: refuse('performance.now()', clock) });
  replace('crypto', {
    getRandomValues: refuse('crypto.getRandomValues()', chance),
    randomUUID: refuse('crypto.randomUUID()', chance),
  });
  // When the collector runs depends on what the instance did before.
  delete globalThis.WeakRef;
  delete globalThis.FinalizationRegistry;
  const write = (level) => (...parts) => said.lines?.push({ level, message: parts.map(shown).join(' ') });
  replace('console', { error: write(0), warn: write(1), info: write(2), log: write(2), debug: write(3), trace: write(3) });
}

function replace(name, value) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}

function shown(part) {
  if (typeof part === 'string') return part;
  if (part instanceof Error) return `${part.name}: ${part.message}`;
  try {
    return JSON.stringify(part) ?? String(part);
  } catch {
    return String(part);
  }
}
