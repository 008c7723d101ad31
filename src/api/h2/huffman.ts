// The Huffman code of header strings (RFC 7541, appendix B), decoded four bits at a time.

/**
 * Bits of each symbol's code, in base 36: symbols 0 to 255, then the end of the string. The code is canonical: codes
 * of one length are given out in the order of their symbols, shorter ones first, so that lengths say everything.
 */
const codeBits =
  'dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6ca' +
  'd67777777777777777777777878djde6f56565666577666567655677777fbeds' +
  'kmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmn' +
  'qqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrq' +
  'u';

const endOfString = 256;
const bitsMax = 30;
/** More than this of padding would hide a symbol (5.2). */
const paddingBitsMax = 7;

/**
 * For each inner node of the code tree and each four bits: the node where they lead, and the symbol they complete.
 * No code is shorter than five bits, so four complete one symbol at most.
 */
interface Machine {
  readonly next: Int16Array;
  readonly symbols: Int16Array;
  /** Nodes in which a string may end: reached by ones alone, at most seven. */
  readonly ends: Uint8Array;
}

const invalid = -1;
const none = -1;

function canonicalCodes(): { codes: Uint32Array; bits: Uint8Array } {
  const bits = Uint8Array.from(codeBits, (digit) => Number.parseInt(digit, 36));
  const codes = new Uint32Array(bits.length);
  let code = 0;
  for (let length = 1; length <= bitsMax; length++) {
    code *= 2;
    for (let symbol = 0; symbol < bits.length; symbol++) if (bits[symbol] === length) codes[symbol] = code++;
  }
  return { codes, bits };
}

function buildMachine(): Machine {
  const { codes, bits } = canonicalCodes();
  // A tree in two arrays: where zero and one lead, an inner node or, below zero, the symbol of a leaf.
  const branches: [number, number][] = [[0, 0]];
  for (let symbol = 0; symbol < codes.length; symbol++) {
    let node = 0;
    for (let at = bits[symbol]! - 1; at > 0; at--) {
      const bit = (codes[symbol]! >>> at) & 1;
      if (branches[node]![bit] === 0) branches[node]![bit] = branches.push([0, 0]) - 1;
      node = branches[node]![bit]!;
    }
    branches[node]![codes[symbol]! & 1] = -1 - symbol;
  }
  const next = new Int16Array(branches.length * 16);
  const symbols = new Int16Array(branches.length * 16).fill(none);
  for (let node = 0; node < branches.length; node++) {
    for (let nibble = 0; nibble < 16; nibble++) {
      let at = node;
      for (let bit = 3; bit >= 0 && at !== invalid; bit--) {
        const to = branches[at]![(nibble >>> bit) & 1]!;
        if (to >= 0) at = to;
        else if (-1 - to === endOfString) at = invalid;
        else {
          symbols[node * 16 + nibble] = -1 - to;
          at = 0;
        }
      }
      next[node * 16 + nibble] = at;
    }
  }
  const ends = new Uint8Array(branches.length);
  for (let node = 0, length = 0; length <= paddingBitsMax; length++, node = branches[node]![1]!)
    ends[node] = 1;
  return { next, symbols, ends };
}

let machine: Machine | undefined;

/** The text (one character per byte) of `bytes` from `start` to `end`; undefined when that is no valid code. */
export function huffmanDecode(bytes: Uint8Array, start: number, end: number): string | undefined {
  // Made when first used: most header blocks of a connection only point at earlier ones.
  machine ??= buildMachine();
  const { next, symbols, ends } = machine;
  // Five bits are the least for a character.
  const out = Buffer.allocUnsafe(Math.ceil(((end - start) * 8) / 5));
  let length = 0;
  let node = 0;
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!;
    for (let shift = 4; shift >= 0; shift -= 4) {
      const at = node * 16 + ((byte >>> shift) & 15);
      const symbol = symbols[at]!;
      if (symbol !== none) out[length++] = symbol;
      node = next[at]!;
      if (node === invalid) return undefined;
    }
  }
  return ends[node] === 1 ? out.toString('latin1', 0, length) : undefined;
}
