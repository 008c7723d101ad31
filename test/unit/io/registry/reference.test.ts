// References: the strict grammar, and the short forms that people type.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  familiarReference,
  hostWithoutPort,
  normalizeReference,
  parseReference,
} from '../../../../src/io/registry/reference.ts';

const hex = 'a'.repeat(64);

test('a reference is split into host, repository, tag and digest', () => {
  const r = parseReference(`127.0.0.1:5000/library/busybox:1.35@sha256:${hex}`);
  assert.deepEqual(
    { ...r },
    {
      name: `127.0.0.1:5000/library/busybox:1.35@sha256:${hex}`,
      host: '127.0.0.1:5000',
      repository: 'library/busybox',
      tag: '1.35',
      digest: `sha256:${hex}`,
    },
  );
  assert.equal(parseReference('docker.io/library/alpine:latest?x=y').tag, 'latest');
  assert.equal(parseReference('[::1]:5000/a:b').host, '[::1]:5000');
});

test('malformed references are refused by name', () => {
  for (const bad of [
    'alpine',
    'docker.io/library/alpine',
    'https://docker.io/library/alpine:latest',
    '/library/alpine:latest',
    'docker.io/UPPER//x:latest',
    'docker.io/a/../b:latest',
    'docker.io/a:',
    'docker.io/a@sha256:short',
    'docker.io/a:b c',
    'host:99999/a:b',
    'host\r\nx: y/a:b',
    `docker.io/${'a'.repeat(2000)}:b`,
  ]) {
    assert.throws(() => parseReference(bad), { code: 'invalid-argument' }, bad);
  }
});

test('what people type becomes a full name', () => {
  for (const [typed, full] of [
    ['alpine', 'docker.io/library/alpine:latest'],
    ['alpine:3', 'docker.io/library/alpine:3'],
    ['me/app', 'docker.io/me/app:latest'],
    ['docker.io/alpine', 'docker.io/library/alpine:latest'],
    ['index.docker.io/alpine:1', 'docker.io/library/alpine:1'],
    ['localhost/x', 'localhost/x:latest'],
    ['127.0.0.1:5000/x/y', '127.0.0.1:5000/x/y:latest'],
    ['ghcr.io/a/b:c', 'ghcr.io/a/b:c'],
    [`quay.io/a@sha256:${hex}`, `quay.io/a@sha256:${hex}`],
  ] as const) {
    assert.equal(normalizeReference(typed), full);
    assert.equal(normalizeReference(full), full);
    parseReference(full);
  }
  assert.equal(familiarReference('docker.io/library/alpine:latest'), 'alpine:latest');
  assert.equal(hostWithoutPort('127.0.0.1:5000'), '127.0.0.1');
  assert.equal(hostWithoutPort('docker.io'), 'docker.io');
});

test('any text is either parsed or refused with a code', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 80 }), (text) => {
      try {
        const r = parseReference(text);
        assert.ok(!/[\s/]/.test(r.host) && !r.repository.includes('..'));
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'invalid-argument');
      }
    }),
  );
});
