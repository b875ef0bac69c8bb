// @ts-check
// SipHash-2-4 with a key of zeros, in halves of 32 bits: BigInts would take five times as long.

/** The state: v0..v3, the low half of each before its high half. */
const v = new Int32Array(8);

/**
 * `v[a] += v[b]`
 * @param {number} a
 * @param {number} b
 */
function add(a, b) {
  const low = (v[a] >>> 0) + (v[b] >>> 0);
  v[a + 1] = v[a + 1] + v[b + 1] + (low > 0xffffffff ? 1 : 0);
  v[a] = low;
}

/**
 * `v[a] = rotate_left(v[a], bits) ^ v[b]`
 * @param {number} a
 * @param {number} b
 * @param {number} bits
 */
function rotateXor(a, b, bits) {
  const low = (v[a] << bits) | (v[a + 1] >>> (32 - bits));
  const high = (v[a + 1] << bits) | (v[a] >>> (32 - bits));
  v[a] = low ^ v[b];
  v[a + 1] = high ^ v[b + 1];
}

/** @param {number} a */
function swapHalves(a) {
  const low = v[a];
  v[a] = v[a + 1];
  v[a + 1] = low;
}

function round() {
  add(0, 2);
  rotateXor(2, 0, 13);
  swapHalves(0);
  add(4, 6);
  rotateXor(6, 4, 16);
  add(0, 6);
  rotateXor(6, 0, 21);
  add(4, 2);
  rotateXor(2, 4, 17);
  swapHalves(4);
}

/**
 * The hash as a signed number of 64 bits.
 * @param {Uint8Array} bytes
 */
export function sipHash(bytes) {
  // "somepseudorandomlygeneratedbytes", as its authors chose.
  v.set([0x70736575, 0x736f6d65, 0x6e646f6d, 0x646f7261, 0x6e657261, 0x6c796765, 0x79746573, 0x74656462]);
  const padded = new DataView(new ArrayBuffer((bytes.length & ~7) + 8));
  new Uint8Array(padded.buffer).set(bytes);
  padded.setUint8(padded.byteLength - 1, bytes.length);
  for (let at = 0; at < padded.byteLength; at += 8) {
    const low = padded.getInt32(at, true);
    const high = padded.getInt32(at + 4, true);
    v[6] ^= low;
    v[7] ^= high;
    round();
    round();
    v[0] ^= low;
    v[1] ^= high;
  }
  v[4] ^= 0xff;
  for (let i = 0; i < 4; i++) round();
  return BigInt.asIntN(64, (BigInt((v[1] ^ v[3] ^ v[5] ^ v[7]) >>> 0) << 32n) | BigInt((v[0] ^ v[2] ^ v[4] ^ v[6]) >>> 0));
}
