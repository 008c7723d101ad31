// What the shim reads of specs and options, and what it dares to do with the state of runc and crun.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { ContainerPlace } from '../../../../src/api/model/ports/container-host.ts';
import { Options } from '../../../../src/api/proto/gen/types/runc/options/oci.ts';
import { kindOfVersion, quickDelete } from '../../../../src/io/oci/quick.ts';
import { createRecords, loadRecord } from '../../../../src/io/oci/records.ts';
import { decodeOptions, loadOptions, saveOptions, settingsFrom } from '../../../../src/io/oci/settings.ts';
import { specFacts } from '../../../../src/io/oci/spec.ts';
import { outputTarget } from '../../../../src/io/oci/streams.ts';
import { scratch } from '../../../fixtures/scratch.ts';

function placeAt(directory: string): ContainerPlace {
  const settings = settingsFrom('n', Options.create({ root: directory }));
  return { id: 'c1', namespace: 'n', bundle: directory, settings };
}

test('a spec tells of hooks, of its pid namespace, and of annotations', () => {
  const facts = (spec: object) => specFacts(JSON.stringify(spec), 'config.json');
  assert.equal(facts({}).privatePid, false);
  assert.equal(facts({ linux: { namespaces: [{ type: 'pid' }] } }).privatePid, true);
  assert.equal(facts({ linux: { namespaces: [{ type: 'pid', path: '/proc/1/ns/pid' }] } }).privatePid, false);
  assert.equal(facts({ hooks: { poststop: [] } }).hasHooks, false);
  assert.equal(facts({ hooks: { poststop: [{ path: '/x' }] } }).hasHooks, true);
  assert.deepEqual(facts({ annotations: { a: 'b' } }).annotations, { a: 'b' });
  assert.throws(() => specFacts('{', 'config.json'), { code: 'unknown' });
});

test('options are those of runc, and come back from the bundle', async () => {
  await using dir = scratch('settings');
  assert.throws(() => decodeOptions({ typeUrl: 'some.Other', value: new Uint8Array(0) }), {
    code: 'unknown',
  });
  const options = Options.create({ binaryName: 'crun', root: '/r', systemdCgroup: true, ioUid: 7 });
  const any = {
    typeUrl: 'type.googleapis.com/containerd.runc.v1.Options',
    value: Options.encode(options).finish(),
  };
  const settings = settingsFrom('n', decodeOptions(any));
  assert.deepEqual(
    [settings.binary, settings.root, settings.systemdCgroup, settings.ioUid],
    ['crun', '/r/n', true, 7],
  );
  saveOptions(dir.path, options);
  assert.deepEqual(settingsFrom('n', loadOptions(dir.path)), settings);
  assert.deepEqual(JSON.parse(readFileSync(dir.sub('options.json'), 'utf8')), {
    binary_name: 'crun',
    root: '/r',
    systemd_cgroup: true,
    io_uid: 7,
  });
  assert.equal(settingsFrom('n', loadOptions(dir.sub('none'))).binary, 'runc');
});

test('output goes to fifos, files and loggers, and nowhere else', () => {
  assert.deepEqual(outputTarget('/run/x').scheme, 'fifo');
  assert.equal(outputTarget('file:///var/log/a%20b').path, '/var/log/a b');
  const logger = outputTarget('binary:///usr/bin/log?id=1&flag=');
  assert.deepEqual(
    [logger.scheme, logger.path, [...logger.query]],
    [
      'binary',
      '/usr/bin/log',
      [
        ['id', '1'],
        ['flag', ''],
      ],
    ],
  );
  assert.throws(() => outputTarget('http://host/x'), { code: 'unknown' });
});

test('only runc and crun are known by their versions', () => {
  assert.equal(kindOfVersion('runc version 1.1.5\ncommit: x'), 'runc');
  assert.equal(kindOfVersion('crun version 1.8.1\n'), 'crun');
  assert.equal(kindOfVersion('runsc version release-2023\nspec: 1.1.0'), 'other');
  assert.equal(kindOfVersion('my runc version 1'), 'other');
});

test('state that is not as expected is left to the runtime', async () => {
  await using dir = scratch('quick');
  const place = placeAt(dir.path);
  const state = join(place.settings.root, 'c1');
  const write = (value: object) => {
    mkdirSync(state, { recursive: true });
    writeFileSync(join(state, 'state.json'), JSON.stringify(value));
  };
  assert.equal(quickDelete('runc', place), false);
  const plain = { id: 'c1', cgroup_paths: { memory: '/sys/fs/cgroup/memory/none-such/c1' }, config: {} };
  const unusual = [
    { ...plain, id: 'other' },
    { ...plain, intel_rdt_path: '/x' },
    { ...plain, config: { cgroups: { Systemd: true } } },
    { ...plain, config: { Hooks: { poststop: [{}] } } },
    { ...plain, cgroup_paths: { memory: '/etc/x/y' } },
    { ...plain, cgroup_paths: { memory: '/sys/fs/cgroup/memory/../../../etc/x' } },
  ];
  for (const value of unusual) {
    write(value);
    const left = quickDelete('runc', place);
    // A path that only begins in the right place resolves to a directory that must still be there.
    assert.equal(left && existsSync(state), false, JSON.stringify(value));
  }
  write(plain);
  writeFileSync(join(state, 'something'), '');
  assert.equal(quickDelete('runc', place), false);
  assert.ok(existsSync(join(state, 'state.json')));
});

test('state as expected is removed', async () => {
  await using dir = scratch('quick');
  const place = placeAt(dir.path);
  const state = join(place.settings.root, 'c1');
  mkdirSync(state, { recursive: true });
  writeFileSync(
    join(state, 'state.json'),
    JSON.stringify({ id: 'c1', cgroup_paths: { memory: '/sys/fs/cgroup/memory/none-such/c1' } }),
  );
  assert.equal(quickDelete('other', place), false);
  assert.equal(quickDelete('runc', place), true);
  assert.ok(!existsSync(state));
});

test('a record is whole or not there', async () => {
  await using dir = scratch('records');
  const records = createRecords();
  assert.equal(loadRecord(dir.path), undefined);
  const process = {
    terminal: false,
    stdin: '',
    stdout: '',
    stderr: '',
    pid: 1,
    startTicks: '2',
    exit: undefined,
  };
  const record = {
    format: 1,
    address: 'unix:///a',
    place: placeAt(dir.path),
    started: true,
    mounted: false,
    init: process,
    execs: {},
  } as const;
  records.save(record);
  assert.deepEqual(records.load(dir.path), JSON.parse(JSON.stringify(record)));
  records.deleted(dir.path, Buffer.from('answer'));
  assert.equal(records.load(dir.path), undefined);
  assert.equal(readFileSync(dir.sub('troupe-shim.deleted'), 'utf8'), 'answer');
  records.deleted(dir.sub('gone'), Buffer.from('answer'));
});
