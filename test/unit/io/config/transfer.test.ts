// The transfer section of config.toml, and which unpack targets come of it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseUnpack, type UnpackChoice } from '../../../../src/actors/transfer/unpack.ts';
import { codeOf } from '../../../../src/api/model/errors.ts';
import { platformOf } from '../../../../src/api/model/platform.ts';
import { transferConfig } from '../../../../src/io/config/transfer.ts';

const host = platformOf('linux', 'amd64');

test('defaults, values, unknown keys and what is refused', () => {
  assert.deepEqual(transferConfig({}, host), {
    ...{ concurrentDownloadsMax: 3, layerFetchBufferBytes: 0, concurrentUploadsMax: 3 },
    ...{ concurrentUnpacksMax: undefined, checkPlatformSupported: false, unpack: undefined, unknownKeys: [] },
  });
  const config = transferConfig(
    {
      ...{ max_concurrent_downloads: 7, max_concurrent_uploaded_layers: 2, max_concurrent_unpacks: 1 },
      ...{ check_platform_supported: true, config_path: '/x', nonsense: 1 },
      unpack_config: [
        { platform: 'linux/arm64', snapshotter: 'native', differ: 'walking', optional: true },
        {},
      ],
    },
    host,
  );
  assert.deepEqual(
    [config.concurrentDownloadsMax, config.concurrentUploadsMax, config.concurrentUnpacksMax],
    [7, 2, 1],
  );
  assert.deepEqual(
    config.unpack?.map(({ platform, snapshotter, optional }) => [
      platform.architecture,
      snapshotter,
      optional,
    ]),
    [
      ['arm64', 'native', true],
      ['amd64', 'overlayfs', false],
    ],
  );
  assert.deepEqual(config.unknownKeys, ['plugins."io.containerd.transfer.v1.local".nonsense']);
  for (const bad of [
    { max_concurrent_downloads: -1 },
    { max_concurrent_downloads: 'three' },
    { check_platform_supported: 'yes' },
    { unpack_config: {} },
    { unpack_config: [1] },
    { unpack_config: [{ platform: 'no/such/thing/here' }] },
    { unpack_config: [{ optional: 1 }] },
  ]) {
    assert.throws(
      () => transferConfig(bad, host),
      (error) => codeOf(error) === 'invalid-argument',
      JSON.stringify(bad),
    );
  }
});

test('an empty snapshotter prefers overlayfs; unsupported pairs are skipped while one is left', () => {
  const choice = (snapshotter: string, osOnly = false): UnpackChoice => ({
    platform: host,
    snapshotter,
    osOnly,
  });
  const choices = [choice('native'), choice('overlayfs')];
  const names = (
    wanted: { platform?: ReturnType<typeof platformOf>; snapshotter: string }[],
    from = choices,
  ) =>
    chooseUnpack(
      from,
      wanted.map((one) => ({ platform: one.platform, ...one })),
      host,
    ).map(({ snapshotter }) => snapshotter);
  assert.deepEqual(names([]), []);
  assert.deepEqual(names([{ snapshotter: '' }]), ['overlayfs']);
  assert.deepEqual(names([{ snapshotter: '' }], [choice('native')]), ['native']);
  assert.deepEqual(names([{ snapshotter: 'native' }, { snapshotter: 'zfs' }]), ['native']);
  const arm = platformOf('linux', 'arm64');
  const refused = (error: unknown): boolean => codeOf(error) === 'invalid-argument';
  assert.throws(() => names([{ snapshotter: 'zfs' }]), refused);
  assert.throws(() => names([{ snapshotter: '', platform: arm }]), refused);
  assert.deepEqual(names([{ snapshotter: '', platform: arm }], [choice('overlayfs', true)]), ['overlayfs']);
  assert.throws(() =>
    names([{ snapshotter: '', platform: platformOf('windows', 'amd64') }], [choice('x', true)]),
  );
});
