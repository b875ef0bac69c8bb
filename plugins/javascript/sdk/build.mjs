// Builds the plugin in the present folder: `src/plugin.ts` or `src/plugin.js`, with the packages that it imports, to `build/NAME.wasm`.
// Prints that path; all else goes to standard error. `keyfold plugin build` calls it.
//
// esbuild makes one script of all, componentize-js puts it into an engine that lies in the component too. Every feature of the engine that
// would import something (a clock, chance, the network, output) is off, so the component imports nothing.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const FEATURES = ['stdio', 'random', 'clocks', 'http', 'fetch-event'];
const sdk = dirname(fileURLToPath(import.meta.url));
const folder = process.cwd();
const packages = createRequire(join(folder, 'package.json'));

/** A failure that is told without a stack. */
class Told extends Error {}

try {
  console.log(await build());
} catch (error) {
  console.error(error instanceof Told ? error.message : error);
  process.exit(1);
}

async function build() {
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const name = basename(manifest.name ?? folder);
  const { script, lines } = await bundle(name, manifest.version ?? '0.0.0');
  const out = join(folder, 'build', `${name}.wasm`);
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, await component(script, lines));
  return out;
}

/** One script of all, and where its lines come from. */
async function bundle(name, version) {
  const entry = ['src/plugin.ts', 'src/plugin.js'].find((file) => existsSync(join(folder, file)));
  if (!entry) throw new Told(`${folder} has no src/plugin.js and no src/plugin.ts`);
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
    // esbuild has told each of them, with its place.
    throw error.errors ? new Told(`${entry}: the plugin cannot be bundled`) : error;
  });
  const file = (end) => built.outputFiles.find(({ path }) => path.endsWith(end)).text;
  const lines = authorsLines(JSON.parse(file('.map')));
  return { script: `${file('.js')}\nglobalThis.KEYFOLD_LINES = ${JSON.stringify(lines)};\n`, lines };
}

async function component(script, lines) {
  const { componentize } = await import(componentizer());
  // Its arguments are cut at spaces, so it works in a folder whose path has none.
  const work = mkdtempSync(join(tmpdir(), 'keyfold-'));
  process.chdir(work);
  try {
    writeFileSync('plugin.js', script);
    const options = { sourcePath: 'plugin.js', sourceName: 'plugin.js', witPath: contract(), worldName: 'plugin', disableFeatures: FEATURES };
    return (await componentize(options)).component;
  } catch (error) {
    throw new Told(loading(String(error.message ?? error), lines));
  } finally {
    process.chdir(folder);
    rmSync(work, { recursive: true, force: true });
  }
}

/** The module of componentize-js, which is found from the plugin's folder, wherever the SDK lies. */
function componentizer() {
  const name = '@bytecodealliance/componentize-js';
  const found = packages.resolve.paths(name).map((path) => join(path, name)).find(existsSync);
  if (!found) throw new Told(`${name} is not installed: package.json has it in devDependencies, \`npm install\` installs it`);
  const { exports } = JSON.parse(readFileSync(join(found, 'package.json'), 'utf8'));
  return pathToFileURL(join(found, exports.import)).href;
}

/** The contract: in the SDK's folder, or at the root of keyfold's own repository. */
function contract() {
  return ['wit', '../../../wit'].map((path) => resolve(sdk, path)).find((path) => existsSync(join(path, 'keyfold.wit')));
}

/** What the engine said of a script that it could not load: the error itself, and the first place of its stack that is the author's. */
function loading(said, { files, lines }) {
  const message = /^Exception while evaluating top-level script\n(?:\S+:\d+:\d+ )?(?:Misuse: )?(.*)$/m.exec(said)?.[1];
  if (!message) return `the plugin cannot be put into a component:\n${said}`;
  const [place] = [...said.matchAll(/plugin\.js:(\d+)/g)].flatMap(([, line]) => (lines[line] ? [lines[line]] : []));
  return `the plugin cannot be loaded: ${message}${place ? ` (${files[place[0]]}:${place[1]})` : ''}`;
}

/** For each line of the bundle that is the author's own: the number of its file, and its line there. */
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

/** The numbers of a segment of a source map: base64 digits of five bits and "there are more", the sign in the lowest bit. */
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
