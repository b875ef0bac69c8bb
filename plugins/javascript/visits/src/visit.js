// @ts-check
// Payloads to visits: a JSON object with
// - `user_id`: an integer literal within 64 bits, signed (no text, no fraction, no exponent; `-0` is 0);
// - `page`: a text;
// - `event_time`: a text as `timeMs` takes it.
//
// The last of duplicate fields counts, other fields are ignored.

/** @param {string} payload */
export function visit(payload) {
  if (payload === '') throw new Error('payload is empty');
  const fields = parsed(payload);
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) throw new Error('payload is not a JSON object');
  const { page, event_time } = fields;
  for (const name of ['user_id', 'page', 'event_time']) {
    if (fields[name] === undefined) throw new Error(`${name} is missing`);
  }
  if (typeof fields.user_id !== 'number') throw new Error('user_id is not an integer');
  if (typeof page !== 'string') throw new Error('page is not a text');
  if (!page.isWellFormed()) throw new Error('page has half of a surrogate pair');
  if (typeof event_time !== 'string') throw new Error('event_time is not a text');
  return { user: integer('user_id', literal(payload, 'user_id')), page, time: timeMs(event_time) };
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
 * The decimal text of a literal that is an integer of 64 bits.
 * @param {string} name
 * @param {string} literal
 */
function integer(name, literal) {
  if (!/^-?[0-9]+$/.test(literal)) throw new Error(`${name} is a number with a fraction or an exponent, not an integer`);
  if (literal.length > 18 && BigInt.asIntN(64, BigInt(literal)) !== BigInt(literal)) throw new Error(`${name} does not fit into 64 bits`);
  return literal === '-0' ? '0' : literal;
}

/**
 * How a number stands in the document: a parsed one has lost its digits beyond 2^53, and whether it had a fraction.
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

const TIME = /^(\d\d\d\d)-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))?$/;
const DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/**
 * `YYYY-MM-DDTHH:MM:SS`, then perhaps a fraction of 1 to 9 digits, then perhaps `Z`, `+HH:MM` or `-HH:MM`; UTC where nothing is said.
 * In ms since 1970 UTC, rounded down. The day must be one of the calendar; there are no leap seconds.
 * @param {string} text
 */
function timeMs(text) {
  const parts = TIME.exec(text);
  const [year, month, day, hour, minute, second] = parts?.slice(1, 7).map(Number) ?? [];
  const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = DAYS[month - 1] + (month === 2 && isLeap ? 1 : 0);
  if (!parts || !(day >= 1 && day <= days) || hour > 23 || minute > 59 || second > 59) throw notATime(text);
  const [fraction = '0', sign, aheadHours = '0', aheadMinutes = '0'] = parts.slice(7);
  if (Number(aheadHours) > 23 || Number(aheadMinutes) > 59) throw notATime(text);
  const ahead = (Number(aheadHours) * 60 + Number(aheadMinutes)) * (sign === '-' ? -60_000 : 60_000);
  const clock = ((hour * 60 + minute) * 60 + second) * 1000 + Number(fraction.slice(0, 3).padEnd(3, '0'));
  return daysSince1970(year, month, day) * 86_400_000 + clock - ahead;
}

/** @param {string} text */
function notATime(text) {
  return new Error(`event_time is ${JSON.stringify(text.slice(0, 64))}, not a time as YYYY-MM-DDTHH:MM:SS[.fraction][Z or +HH:MM or -HH:MM]`);
}

/**
 * Days of the Gregorian calendar. `Date.UTC` takes the years 0 to 99 for those of the twentieth century.
 * @param {number} year
 * @param {number} month
 * @param {number} day
 */
function daysSince1970(year, month, day) {
  return Date.UTC(year + 400, month - 1, day) / 86_400_000 - 146_097;
}
