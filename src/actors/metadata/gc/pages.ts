// Lists of nodes on their way between threads: in one buffer, read page by page, so that neither side is held up by a
// list of a hundred thousand names at once.
import type { Node } from './references.ts';

/** Nodes in a page. */
export const nodePageLength = 64;
/** Between nodes: no part of a node is empty, so that two NULs in a row are in none. */
const between = '\0\0';

export interface NodePages {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where each page ends. */
  readonly ends: Float64Array<ArrayBuffer>;
}

export function packNodes(nodes: readonly Node[]): NodePages {
  const pages: Buffer[] = [];
  for (let at = 0; at < nodes.length; at += nodePageLength) {
    pages.push(Buffer.from(nodes.slice(at, at + nodePageLength).join(between)));
  }
  const bytes = new Uint8Array(pages.reduce((sum, page) => sum + page.length, 0));
  const ends = new Float64Array(pages.length);
  let end = 0;
  pages.forEach((page, index) => {
    bytes.set(page, end);
    end += page.length;
    ends[index] = end;
  });
  return { bytes, ends };
}

export function* unpackNodes({ bytes, ends }: NodePages): Generator<Node[]> {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let start = 0;
  for (const end of ends) {
    yield buffer.toString('utf8', start, end).split(between);
    start = end;
  }
}
