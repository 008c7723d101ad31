// A manifest whose config has no type is written anew as containerd's library writes manifests.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rewriteManifest } from '../../../../src/actors/distribution/legacy-config.ts';

test('keys come in the order of the specification, annotations sorted, indented by three, HTML escaped', () => {
  const digest = `sha256:${'0'.repeat(64)}`;
  const before = {
    layers: [{ digest, size: 2, mediaType: 'l', annotations: { b: '<1>', a: '&' } }],
    config: { size: 1, digest, mediaType: 'application/octet-stream' },
    schemaVersion: 2,
    unknown: true,
  };
  const after = rewriteManifest(Buffer.from(JSON.stringify(before))).toString();
  assert.equal(
    after,
    [
      '{',
      '   "schemaVersion": 2,',
      '   "config": {',
      '      "mediaType": "application/vnd.docker.container.image.v1+json",',
      `      "digest": "${digest}",`,
      '      "size": 1',
      '   },',
      '   "layers": [',
      '      {',
      '         "mediaType": "l",',
      `         "digest": "${digest}",`,
      '         "size": 2,',
      '         "annotations": {',
      '            "a": "\\u0026",',
      '            "b": "\\u003c1\\u003e"',
      '         }',
      '      }',
      '   ]',
      '}',
    ].join('\n'),
  );
});
