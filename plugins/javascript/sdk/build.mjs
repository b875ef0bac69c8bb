// Builds the plugin in the current folder, `src/plugin.ts` or `src/plugin.js`, with the packages that it imports, to `build/NAME.wasm`. Prints
// that path to standard output, and everything else to standard error. `keyfold plugin build` calls it.
//
// esbuild bundles everything into one script. componentize-js puts the script and a JavaScript engine into one component. Every feature of the
// engine that would import something (clock, randomness, network, output) is disabled, so the component imports nothing.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const FEATURES = ['stdio', 'random', 'clocks', 'http', 'fetch-event'];
const sdk = dirname(fileURLToPath(import.meta.url));
const folder = process.cwd();
const packages = createRequire(join(folder, 'package.json'));

/** A failure whose message is enough: it is printed without its stack. */
class BuildError extends Error {}

try {
  console.log(await build());
} catch (error) {
  console.error(error instanceof BuildError ? error.message : error);
  process.exit(1);
}

async function build() {
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const name = basename(manifest.name ?? folder);
  const { script, lines } = await bundle(name, manifest.version ?? '0.0.0');
  const out = join(folder, 'build', `${name}.wasm`);
  mkdirSync(dirname(out), { recursive: true });
  // Most of the time goes into the component, so one that was made of the same is kept.
  const madeOf = digest([script, readFileSync(join(contract(), 'keyfold.wit')), readFileSync(componentizer().manifest), FEATURES.join()]);
  const seal = `${out}.sha256`;
  if (existsSync(seal) && existsSync(out) && readFileSync(seal, 'utf8') === digest([madeOf, readFileSync(out)])) return out;
  const bytes = await component(script, lines);
  writeFileSync(out, bytes);
  writeFileSync(seal, digest([madeOf, bytes]));
  return out;
}

function digest(parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length} `).update(part);
  return hash.digest('hex');
}

/** Bundles everything into one script. Returns it with the sources of its lines. */
async function bundle(name, version) {
  const entry = ['src/plugin.ts', 'src/plugin.js'].find((file) => existsSync(join(folder, file)));
  if (!entry) throw new BuildError(`${folder} is not a plugin: it has neither src/plugin.js nor src/plugin.ts`);
  const { build: run } = packages('esbuild');
  const built = await run({
    stdin: {
      contents: `import ${JSON.stringify(join(sdk, 'enforce.js'))}; export { mapper } from ${JSON.stringify(`./${entry}`)};`,
      resolveDir: folder,
      sourcefile: 'keyfold',
    },
    absWorkingDir: folder,
    outfile: 'plugin.js',
    define: { KEYFOLD_NAME: JSON.stringify(name), KEYFOLD_VERSION: JSON.stringify(version) },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    target: 'es2022',
    charset: 'utf8',
    sourcemap: 'external',
    logLevel: 'warning',
  }).catch((error) => {
    // esbuild has already printed each error with its place.
    throw error.errors ? new BuildError(`cannot bundle ${entry}: see the errors above`) : error;
  });
  const file = (end) => built.outputFiles.find(({ path }) => path.endsWith(end)).text;
  const lines = authorsLines(JSON.parse(file('.map')));
  return { script: `${file('.js')}\nglobalThis.KEYFOLD_LINES = ${JSON.stringify(lines)};\n`, lines };
}

async function component(script, lines) {
  const { componentize } = await import(componentizer().module);
  // componentize-js splits its arguments at spaces, so it runs in a folder whose path has none.
  const work = mkdtempSync(join(tmpdir(), 'keyfold-'));
  process.chdir(work);
  try {
    writeFileSync('plugin.js', script);
    const options = { sourcePath: 'plugin.js', sourceName: 'plugin.js', witPath: contract(), worldName: 'plugin', disableFeatures: FEATURES };
    return (await componentize(options)).component;
  } catch (error) {
    throw new BuildError(loading(String(error.message ?? error), lines));
  } finally {
    process.chdir(folder);
    rmSync(work, { recursive: true, force: true });
  }
}

/** Finds the module and the manifest of componentize-js, starting from the plugin's folder, not from the SDK's. */
function componentizer() {
  const name = '@bytecodealliance/componentize-js';
  const found = packages.resolve.paths(name).map((path) => join(path, name)).find(existsSync);
  if (!found) throw new BuildError(`${name} is not installed: check that it is in devDependencies of package.json, then run \`npm install\``);
  const manifest = join(found, 'package.json');
  const { exports } = JSON.parse(readFileSync(manifest, 'utf8'));
  return { manifest, module: pathToFileURL(join(found, exports.import)).href };
}

/** Finds the contract: in the SDK's folder, or at the root of keyfold's own repository. */
function contract() {
  return ['wit', '../../../wit'].map((path) => resolve(sdk, path)).find((path) => existsSync(join(path, 'keyfold.wit')));
}

/** Returns the message for a script that the engine could not load: the error, and the first place in the author's source. */
function loading(said, { files, lines }) {
  const message = /^Exception while evaluating top-level script\n(?:\S+:\d+:\d+ )?(?:Misuse: )?(.*)$/m.exec(said)?.[1];
  if (!message) return `cannot build a component from the plugin:\n${said}`;
  const [place] = [...said.matchAll(/plugin\.js:(\d+)/g)].flatMap(([, line]) => (lines[line] ? [lines[line]] : []));
  return `cannot load the plugin: ${message}${place ? ` (${files[place[0]]}:${place[1]})` : ''}`;
}

/** Maps each line of the bundle that comes from the author's source to the index of its file and the line there. */
function authorsLines({ sources, mappings }) {
  const isOwn = (path) => !path.startsWith('..') && !path.split(sep).includes('node_modules') && !resolve(path).startsWith(sdk);
  const files = sources.map((source) => relative(folder, resolve(folder, source)));
  const lines = {};
  let source = 0;
  let line = 0;
  mappings.split(';').forEach((segments, bundled) => {
    for (const segment of segments.split(',').filter(Boolean)) {
      const [, ofSource = 0, ofLine = 0] = numbers(segment);
      source += ofSource;
      line += ofLine;
      if (isOwn(files[source])) lines[bundled + 1] ??= [source, line + 1];
    }
  });
  return { files, lines };
}

/** Decodes the numbers in a segment of a source map. A base64 digit has five bits and a continuation bit; the lowest bit is the sign. */
function numbers(segment) {
  const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const found = [];
  let [value, shift] = [0, 0];
  for (const digit of segment) {
    const bits = digits.indexOf(digit);
    value |= (bits & 31) << shift;
    shift += 5;
    if (bits & 32) continue;
    found.push(value & 1 ? -(value >> 1) : value >> 1);
    [value, shift] = [0, 0];
  }
  return found;
}
