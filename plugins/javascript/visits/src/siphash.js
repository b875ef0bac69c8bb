// @ts-check
// SipHash-2-4 with a zero key. It computes in 32-bit halves, in local variables of a single function: the engine only interprets, so BigInts,
// calls and arrays would cost several times as much as the arithmetic.

/**
 * Returns the hash as a signed 64-bit integer.
 * @param {Uint8Array} bytes
 */
export function sipHash(bytes) {
  // SipHash's initial state, "somepseudorandomlygeneratedbytes".
  let [a, A, b, B] = [0x70736575, 0x736f6d65, 0x6e646f6d, 0x646f7261];
  let [c, C, d, D] = [0x6e657261, 0x6c796765, 0x79746573, 0x74656462];
  const padded = new Int32Array(((bytes.length & ~7) + 8) / 4);
  const view = new Uint8Array(padded.buffer);
  view.set(bytes);
  view[view.length - 1] = bytes.length;
  let [low, high, t] = [0, 0, 0];
  for (let at = 0; at <= padded.length; at += 2) {
    const isLast = at === padded.length;
    if (isLast) {
      c ^= 0xff;
    } else {
      low = padded[at];
      high = padded[at + 1];
      d ^= low;
      D ^= high;
    }
    for (let rounds = isLast ? 4 : 2; rounds > 0; rounds--) {
      // v0 += v1; v1 = rotate_left(v1, 13) ^ v0; v0 = rotate_left(v0, 32)
      t = (a >>> 0) + (b >>> 0);
      A = (A + B + (t > 0xffffffff ? 1 : 0)) | 0;
      a = t | 0;
      t = (b << 13) | (B >>> 19);
      B = ((B << 13) | (b >>> 19)) ^ A;
      b = t ^ a;
      t = a;
      a = A;
      A = t;
      // v2 += v3; v3 = rotate_left(v3, 16) ^ v2
      t = (c >>> 0) + (d >>> 0);
      C = (C + D + (t > 0xffffffff ? 1 : 0)) | 0;
      c = t | 0;
      t = (d << 16) | (D >>> 16);
      D = ((D << 16) | (d >>> 16)) ^ C;
      d = t ^ c;
      // v0 += v3; v3 = rotate_left(v3, 21) ^ v0
      t = (a >>> 0) + (d >>> 0);
      A = (A + D + (t > 0xffffffff ? 1 : 0)) | 0;
      a = t | 0;
      t = (d << 21) | (D >>> 11);
      D = ((D << 21) | (d >>> 11)) ^ A;
      d = t ^ a;
      // v2 += v1; v1 = rotate_left(v1, 17) ^ v2; v2 = rotate_left(v2, 32)
      t = (c >>> 0) + (b >>> 0);
      C = (C + B + (t > 0xffffffff ? 1 : 0)) | 0;
      c = t | 0;
      t = (b << 17) | (B >>> 15);
      B = ((B << 17) | (b >>> 15)) ^ C;
      b = t ^ c;
      t = c;
      c = C;
      C = t;
    }
    if (!isLast) {
      a ^= low;
      A ^= high;
    }
  }
  return BigInt.asIntN(64, (BigInt((A ^ B ^ C ^ D) >>> 0) << 32n) | BigInt((a ^ b ^ c ^ d) >>> 0));
}
