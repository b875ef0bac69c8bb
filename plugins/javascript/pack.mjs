// Completes the package of the SDK while npm packs it: npm leaves out symlinks, so the contract and the licence are copied into the folder
// before packing (`add`) and deleted afterwards (`remove`). npm calls it in the SDK's folder.

import { copyFileSync, mkdirSync, rmSync } from 'node:fs';

const root = new URL('../../', import.meta.url);
const sdk = new URL('sdk/', import.meta.url);

const [, , command] = process.argv;
if (command === 'add') {
  mkdirSync(new URL('wit/', sdk), { recursive: true });
  copyFileSync(new URL('wit/keyfold.wit', root), new URL('wit/keyfold.wit', sdk));
  copyFileSync(new URL('LICENSE', root), new URL('LICENSE', sdk));
} else if (command === 'remove') {
  rmSync(new URL('wit/', sdk), { recursive: true });
  rmSync(new URL('LICENSE', sdk));
} else {
  console.error('usage: node pack.mjs add | remove');
  process.exit(2);
}
