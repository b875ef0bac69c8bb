// What to say of an error, for people: its message, and where in the author's source it comes from.
//
// The text of an `Error` is the author's own word on a record, and stands alone: a line number would change with each edit above it, and a
// golden test with it. What the engine or the SDK throws (`TypeError`, `Misuse`, ..) is a mistake in the plugin, and says where.

const WORDS = ['Error', 'SyntaxError'];

/** An error of a whole call, which the contract gives as a text. */
export function whole(message) {
  return Object.assign(new Error(message), { payload: message });
}

export function reason(error) {
  // How much memory there is depends on what the instance did before: the host tries again in a fresh one.
  if (error === 'out of memory') throw whole('out of memory (plugin.memory)');
  if (typeof error === 'string') return error;
  if (!(error instanceof Error)) return `what was thrown is not an Error: ${shown(error)}`;
  const message = error.message || error.name;
  if (WORDS.includes(error.name)) return message;
  const place = location(error.stack);
  const named = error.name === 'Misuse' || message === error.name ? message : `${error.name}: ${message}`;
  return place ? `${named} (${place})` : named;
}

function shown(value) {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

/** `src/plugin.js:12` of the first line of a stack that is the author's: the build leaves a table of lines. */
function location(stack) {
  const table = globalThis.KEYFOLD_LINES;
  if (!table) return null;
  for (const [, line] of String(stack).matchAll(/:(\d+):\d+$/gm)) {
    const place = table.lines[line];
    if (place) return `${table.files[place[0]]}:${place[1]}`;
  }
  return null;
}
