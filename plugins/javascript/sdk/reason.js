// Converts an exception to the reason of a rejection: its message, and for mistakes in the plugin also the place in the author's source.
//
// An `Error` is how an author rejects a record, so its message is used alone: a line number would change with each edit above it, and golden
// tests would change too. An error of the engine or the SDK (`TypeError`, `Misuse`, ..) is a mistake in the plugin, so the place is added.

const WITHOUT_PLACE = ['Error', 'SyntaxError'];

/** Creates an error that fails the whole call. */
export function callError(message) {
  return Object.assign(new Error(message), { payload: message });
}

/** Returns the reason of a rejection for what was thrown. */
export function reason(error) {
  // How much memory is left depends on what the instance did before. If the whole call fails, the host repeats it in a fresh instance.
  if (error === 'out of memory') throw callError('out of memory (plugin.memory)');
  if (typeof error === 'string') return error;
  if (!(error instanceof Error)) return `the plugin threw a value that is not an Error: ${formatted(error)}`;
  const message = error.message || error.name;
  if (WITHOUT_PLACE.includes(error.name)) return message;
  const place = location(error.stack);
  const named = error.name === 'Misuse' || message === error.name ? message : `${error.name}: ${message}`;
  return place ? `${named} (${place})` : named;
}

function formatted(value) {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

/** Returns the first place in a stack that is in the author's source, like `src/plugin.js:12`. The build provides the table of lines. */
function location(stack) {
  const table = globalThis.KEYFOLD_LINES;
  if (!table) return null;
  for (const [, line] of String(stack).matchAll(/:(\d+):\d+$/gm)) {
    const place = table.lines[line];
    if (place) return `${table.files[place[0]]}:${place[1]}`;
  }
  return null;
}
