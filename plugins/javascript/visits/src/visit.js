// @ts-check
// Parses payloads into visits. A payload is a JSON object with these fields:
// - `user_id`: a signed 64-bit integer (not a string; no exponent; `-0` is 0; a fraction of zeros is allowed, as pandas writes `1.0`);
// - `page`: a string;
// - `event_time`: a string that `timeMs` accepts.
//
// If a field occurs twice, the last one counts. Other fields are ignored.

/** @param {string} payload */
export function visit(payload) {
  if (payload === '') throw new Error('payload is empty');
  const fields = parsed(payload);
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) throw new Error('payload is not a JSON object');
  const { user_id, page, event_time } = fields;
  if (typeof user_id !== 'number') throw wrong('user_id', user_id, 'an integer');
  if (typeof page !== 'string') throw wrong('page', page, 'a string');
  if (!page.isWellFormed()) throw new Error('page has half of a surrogate pair');
  if (typeof event_time !== 'string') throw wrong('event_time', event_time, 'a string');
  return { user: integer('user_id', literal(payload, 'user_id')), page, time: timeMs(event_time) };
}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {string} type
 */
function wrong(name, value, type) {
  return new Error(value === undefined ? `${name} is missing` : `${name} is ${JSON.stringify(value)}, not ${type}`);
}

/** @param {string} payload */
function parsed(payload) {
  try {
    return JSON.parse(payload);
  } catch (error) {
    throw new Error(`payload is not JSON: ${/** @type {Error} */ (error).message}`);
  }
}

/**
 * Checks that a JSON literal is a 64-bit integer, and returns it in decimal.
 * @param {string} name
 * @param {string} literal
 */
function integer(name, literal) {
  const whole = /^(-?[0-9]+)(?:\.0+)?$/.exec(literal)?.[1];
  if (whole === undefined) throw new Error(`${name} is a number with ${/[eE]/.test(literal) ? 'an exponent' : 'a fraction'}, not an integer`);
  if (whole.length > 18 && BigInt.asIntN(64, BigInt(whole)) !== BigInt(whole)) throw new Error(`${name} does not fit into 64 bits`);
  return whole === '-0' ? '0' : whole;
}

/**
 * Finds the JSON literal of a number field. A parsed number is not enough: it has lost digits beyond 2^53, and whether it had a fraction.
 * @param {string} payload A JSON object that has the field.
 * @param {string} name
 */
function literal(payload, name) {
  const at = payload.indexOf(name);
  const isOnly = at >= 0 && payload.indexOf(name, at + 1) < 0 && !payload.includes('\\u');
  return isOnly ? literalAfter(payload, at + name.length + 1) : lastLiteral(payload, name);
}

const VALUE = /[ \t\n\r]*:[ \t\n\r]*([^ \t\n\r,}]*)/y;

/**
 * @param {string} payload
 * @param {number} at The end of the name.
 */
function literalAfter(payload, at) {
  VALUE.lastIndex = at;
  return VALUE.exec(payload)?.[1] ?? '';
}

/**
 * @param {string} payload
 * @param {string} name
 */
function lastLiteral(payload, name) {
  let [depth, isName, found] = [0, false, ''];
  for (const { 0: token, index } of payload.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (depth === 1 && isName && token[0] === '"' && JSON.parse(token) === name) found = literalAfter(payload, index + token.length);
    if (token === '{' || token === '[') depth++;
    if (token === '}' || token === ']') depth--;
    isName = token === '{' || token === ',';
  }
  return found;
}

const TIME =
  /^\d{4}-(?:0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ](?:[01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(?:\.(\d+))?(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?$/;

/**
 * Parses a time in the form of RFC 3339, and returns it in ms since 1970 UTC, rounded down.
 *
 * The form is `YYYY-MM-DDTHH:MM:SS`, an optional fraction, and an optional `Z`, `+HH:MM` or `-HH:MM`. `T` and `Z` may be in lower case, and a
 * space may stand for the `T`. A leap second (`23:59:60` UTC) is the first second of the next day. Without an offset, the time is in UTC. An
 * offset may also be written `+HHMM` or `+HH`. Days that do not exist are not allowed.
 * @param {string} text
 */
function timeMs(text) {
  const parts = TIME.exec(text);
  if (parts === null) throw notATime(text);
  const [, day, second, digits, sign, hours, minutes] = parts;
  const minute = Date.parse(`${text.slice(0, 10)}T${text.slice(11, 16)}:00Z`);
  // Some engines turn a day that does not exist into one of the next month.
  if (day > '28' && new Date(minute).getUTCDate() !== Number(day)) throw notATime(text);
  const ahead = sign === undefined ? 0 : (Number(hours) * 60 + Number(minutes ?? 0)) * 60_000;
  const time = minute - (sign === '-' ? -ahead : ahead) + Number(second) * 1000;
  // A leap second ends a day of UTC.
  if (second === '60' && time % 86_400_000 !== 0) throw notATime(text);
  return time + (digits === undefined ? 0 : Number(digits.slice(0, 3).padEnd(3, '0')));
}

/** @param {string} text */
function notATime(text) {
  return new Error(`event_time is ${JSON.stringify(text.slice(0, 64))}, not a time of the form YYYY-MM-DDTHH:MM:SS[.fraction][Z or +HH:MM or -HH:MM]`);
}
