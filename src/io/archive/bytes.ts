// Byte strings: names as they are on disk, one character per byte, so that they sort as the kernel and tar do and
// names that are no UTF-8 survive.
import type { PathArg } from '../../api/model/ports/sys.ts';

/** Text whose characters are bytes (latin1). ASCII names are what they look like. */
export type ByteString = string;

const ascii = /^[\u0000-\u007f]*$/;

export function pathArg(name: ByteString): PathArg {
  return ascii.test(name) ? name : Buffer.from(name, 'latin1');
}

export function fromText(text: string): ByteString {
  return ascii.test(text) ? text : Buffer.from(text).toString('latin1');
}

/** For messages. */
export function toText(name: ByteString): string {
  return ascii.test(name) ? name : Buffer.from(name, 'latin1').toString();
}

/** A name quoted for a message and cut to a readable length. */
export function quoted(name: ByteString): string {
  const text = toText(name.length > 512 ? `${name.slice(0, 512)}...` : name);
  return JSON.stringify(text);
}

const unclean = /(?:^|\/)\.{0,2}(?:\/|$)/;

/**
 * The path below the root that `name` means lexically: no leading or trailing slash, no `.`, `..` or empty
 * component; `..` stops at the root. Empty for the root itself.
 */
export function cleanPath(name: ByteString): ByteString {
  let start = 0;
  let end = name.length;
  if (name.startsWith('./')) start = 2;
  while (end > start && name.charCodeAt(end - 1) === 0x2f) end--;
  const trimmed = start === 0 && end === name.length ? name : name.slice(start, end);
  if (!unclean.test(trimmed)) return trimmed;
  const parts: string[] = [];
  for (const part of trimmed.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') parts.pop();
    else parts.push(part);
  }
  return parts.join('/');
}
