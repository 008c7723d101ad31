// Image verifiers: asked by name, stopped at the first refusal, held to their time and output.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Digest } from '../../../../src/api/model/ids.ts';
import { mediaType } from '../../../../src/api/model/oci.ts';
import { type VerifierSettings, verifyImage } from '../../../../src/io/images/verifiers.ts';
import { scratch } from '../../../fixtures/scratch.ts';

const target = {
  ...{ mediaType: mediaType.ociIndex, digest: `sha256:${'a'.repeat(64)}` as Digest, size: 42n },
  ...{ annotations: new Map([['k', 'v']]), urls: [] },
};

async function verify(
  scripts: Record<string, string>,
  settings: Partial<VerifierSettings> = {},
  look: (path: string) => void = () => {},
) {
  await using directory = scratch('verify');
  const programs = directory.sub('bin');
  mkdirSync(programs);
  for (const [name, script] of Object.entries(scripts)) {
    writeFileSync(`${programs}/${name}`, `#!/bin/sh\ncd ${directory.path}\n${script}\n`, { mode: 0o755 });
  }
  const whole = { directory: programs, verifiersMax: 10, verifierMs: 60_000, onNote: () => {}, ...settings };
  await verifyImage(whole, 'r.example/a:b', target);
  look(directory.path);
}

test('a verifier is told the name, the digest and the descriptor', async () => {
  await verify({ one: 'echo "$@" > args; cat > stdin' }, {}, (path) => {
    const type = 'application/vnd.oci.descriptor.v1+json';
    assert.equal(
      readFileSync(`${path}/args`, 'utf8').trim(),
      `-name r.example/a:b -digest ${target.digest} -stdin-media-type ${type}`,
    );
    assert.deepEqual(JSON.parse(readFileSync(`${path}/stdin`, 'utf8')), {
      ...{ mediaType: mediaType.ociIndex, digest: target.digest, size: 42, annotations: { k: 'v' } },
    });
  });
});

test('the first refusal ends it, with what the verifier says; no directory allows', async () => {
  await assert.rejects(verify({ a: 'exit 0', b: 'echo " not signed "; exit 1', c: 'touch ran' }), {
    code: 'permission-denied',
    message: 'image verifier b rejected r.example/a:b: not signed',
  });
  await verify({}, { directory: '/nonexistent/verifiers' });
  await verify({ a: 'exit 1' }, { verifiersMax: 0 });
  await assert.rejects(verify({ a: 'exit 0', b: 'exit 1' }, { verifiersMax: -1 }), {
    code: 'permission-denied',
  });
});

test('a verifier that does not end or cannot run is no consent', async () => {
  await assert.rejects(verify({ a: 'sleep 600' }, { verifierMs: 100 }), { code: 'failed-precondition' });
  await assert.rejects(verify({ a: 'kill -9 $$' }), { code: 'failed-precondition' });
});

test('a verifier that talks without end is cut, not waited for', async () => {
  await assert.rejects(verify({ a: 'yes x | head -c 1000000; exit 1' }), (error: Error) => {
    assert.ok(error.message.length < 40_000);
    return true;
  });
});
