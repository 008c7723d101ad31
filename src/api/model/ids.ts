// Identifiers, parsed once at the edge into branded types: inside, a ContainerId is valid.
import { fail } from './errors.ts';

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

export type Namespace = Branded<'Namespace'>;
export type ContainerId = Branded<'ContainerId'>;
export type ExecId = Branded<'ExecId'>;
export type SandboxId = Branded<'SandboxId'>;
/** `<algorithm>:<lower-case hex>` */
export type Digest = Branded<'Digest'>;

export const identifierBytesMax = 76;
const identifierPattern = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;

/** Throws `invalid-argument` unless `value` is 1 to 76 bytes of `[A-Za-z0-9]` joined by single `.`, `_` or `-`. */
export function checkIdentifier(value: string, kind: string): void {
  if (value.length === 0) throw fail('invalid-argument', `${kind} must not be empty`);
  if (value.length > identifierBytesMax) {
    throw fail(
      'invalid-argument',
      `${kind} "${value.slice(0, identifierBytesMax)}..." is longer than ${identifierBytesMax} bytes`,
    );
  }
  if (!identifierPattern.test(value)) {
    throw fail('invalid-argument', `${kind} "${value}" must match ${identifierPattern.source}`);
  }
}

export function parseNamespace(value: string): Namespace {
  checkIdentifier(value, 'namespace');
  return value as Namespace;
}

export function parseContainerId(value: string): ContainerId {
  checkIdentifier(value, 'container id');
  return value as ContainerId;
}

export function parseExecId(value: string): ExecId {
  checkIdentifier(value, 'exec id');
  return value as ExecId;
}

export function parseSandboxId(value: string): SandboxId {
  checkIdentifier(value, 'sandbox id');
  return value as SandboxId;
}

/** Digest algorithms and the length of their hex form (OCI image spec, descriptor.md "Registered algorithms"). */
export const digestHexLength = { sha256: 64, sha384: 96, sha512: 128 } as const;
export type DigestAlgorithm = keyof typeof digestHexLength;

export function parseDigest(value: string): Digest {
  const colon = value.indexOf(':');
  const algorithm = value.slice(0, Math.max(colon, 0));
  if (colon <= 0 || !Object.hasOwn(digestHexLength, algorithm)) {
    throw fail('invalid-argument', `digest "${value.slice(0, 160)}" is not <sha256|sha384|sha512>:<hex>`);
  }
  const hex = value.slice(colon + 1);
  if (hex.length !== digestHexLength[algorithm as DigestAlgorithm] || !/^[0-9a-f]+$/.test(hex)) {
    throw fail('invalid-argument', `digest "${value.slice(0, 160)}" has a malformed ${algorithm} value`);
  }
  return value as Digest;
}

export function digestAlgorithm(digest: Digest): DigestAlgorithm {
  return digest.slice(0, digest.indexOf(':')) as DigestAlgorithm;
}

export function digestHex(digest: Digest): string {
  return digest.slice(digest.indexOf(':') + 1);
}
