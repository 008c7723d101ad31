// Deprecated settings: found where containerd's configurations have them, told once with the last time.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deprecations, deprecatedSettings } from '../../../src/boot/deprecations.ts';

test('settings that are there are found, empty ones are not', () => {
  const plugins = new Map<string, Record<string, unknown>>([
    [
      'io.containerd.grpc.v1.cri',
      { registry: { mirrors: { 'docker.io': {} }, auths: {} }, enable_cdi: false },
    ],
    ['io.containerd.cri.v1.images', { registry: { mirrors: { x: 1 }, configs: { y: {} } } }],
    ['io.containerd.cri.v1.runtime', { cni: { bin_dir: '' } }],
    ['io.containerd.internal.v1.tracing', { service_name: 'x' }],
  ]);
  assert.deepEqual(deprecatedSettings(plugins), [
    'cri-registry-mirrors',
    'cri-registry-configs',
    'tracing-service-config',
  ]);
  assert.deepEqual(deprecatedSettings(new Map()), []);
});

test('each is told once, with the last time', () => {
  let nowNs = 1_000_000_000n;
  const deprecations = new Deprecations({ nowNs: () => nowNs });
  deprecations.met('cgroup-v1');
  nowNs = 2_000_000_005n;
  deprecations.met('cgroup-v1');
  const [one, ...more] = deprecations.list();
  assert.deepEqual([one?.id, more], ['io.containerd.deprecation/cgroup-v1', []]);
  assert.deepEqual(one?.lastOccurrence, { seconds: 2n, nanos: 5 });
});
