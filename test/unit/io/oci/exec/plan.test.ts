// Which execs are ordinary: everything else has to go through the runtime.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planExec } from '../../../../../src/io/oci/exec/plan.ts';
import { crunFacts, runcFacts, type StateFacts } from '../../../../../src/io/oci/exec/state.ts';

const runcState = {
  id: 'c1',
  init_process_pid: 42,
  init_process_start: 1234,
  rootless: false,
  cgroup_paths: { pids: '/sys/fs/cgroup/pids/ns/c1' },
  intel_rdt_path: '',
  config: {
    rootfs: '/b/rootfs',
    namespaces: ['NEWPID', 'NEWIPC', 'NEWUTS', 'NEWNS', 'NEWNET'].map((type) => ({ type, path: '' })),
    capabilities: { Bounding: ['CAP_KILL'], Effective: ['CAP_KILL'], Permitted: ['CAP_KILL'], Ambient: null },
    cgroups: { path: '/ns/c1', Systemd: false },
    oom_score_adj: 100,
    uid_mappings: null,
    seccomp: null,
    hostname: 'some',
    no_new_keyring: false,
  },
};
const crunStatus = {
  pid: 42,
  'process-start-time': 1234,
  'cgroup-path': '/ns/c1',
  scope: '',
  'systemd-cgroup': false,
};
const crunConfig = {
  ociVersion: '1.0.2',
  process: { args: ['sleep'], cwd: '/', capabilities: { bounding: ['CAP_KILL'] } },
  root: { path: 'rootfs' },
  annotations: { some: 'thing' },
  linux: {
    namespaces: ['pid', 'mount'].map((type) => ({ type })),
    resources: {},
    maskedPaths: ['/proc/keys'],
  },
};
const runc = (change: object = {}, config: object = {}): StateFacts | undefined =>
  runcFacts(JSON.stringify({ ...runcState, ...change, config: { ...runcState.config, ...config } }), 'c1');
const crun = (config: object = {}): StateFacts | undefined =>
  crunFacts(JSON.stringify(crunStatus), JSON.stringify({ ...crunConfig, ...config }));

const ordinary = { args: ['true'], cwd: '/', env: ['PATH=/bin'], user: { uid: 0, gid: 0 } };
const plan = (more: object, state: StateFacts | undefined = runc()) => {
  assert.ok(state !== undefined);
  return planExec(state, Buffer.from(JSON.stringify({ ...ordinary, ...more })));
};

test('what runc and crun have written down', () => {
  assert.deepEqual(runc(), {
    kind: 'runc',
    pid: 42,
    startTicks: '1234',
    namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'],
    cgroups: ['/sys/fs/cgroup/pids/ns/c1'],
    capabilities: {
      bounding: ['CAP_KILL'],
      effective: ['CAP_KILL'],
      permitted: ['CAP_KILL'],
      ambient: null,
    },
    oomScoreAdj: 100,
    keyring: '_ses.c1',
  });
  assert.equal(runc({}, { no_new_keyring: true })?.keyring, undefined);
  const facts = crun();
  assert.deepEqual([facts?.pid, facts?.startTicks, facts?.namespaces], [42, '1234', ['pid', 'mount']]);
  assert.deepEqual([facts?.oomScoreAdj, facts?.keyring], [undefined, undefined]);
});

test('containers with anything beyond the usual are for the runtime', () => {
  const seccomp = { default_action: 1, syscalls: [] };
  const odd: [object, object?][] = [
    [{ id: 'other' }],
    [{ rootless: true }],
    [{ init_process_pid: 0 }],
    [{ intel_rdt_path: '/sys/fs/resctrl/c1' }],
    [{ cgroup_paths: { pids: '/sys/fs/cgroup/pids/../x' } }],
    [{}, { seccomp }],
    [{}, { apparmor_profile: 'some' }],
    [{}, { process_label: 'system_u' }],
    [{}, { uid_mappings: [{ container_id: 0, host_id: 1000, size: 1 }] }],
    [{}, { namespaces: [{ type: 'NEWUSER' }, { type: 'NEWPID' }, { type: 'NEWNS' }] }],
    [{}, { namespaces: [{ type: 'NEWTIME' }] }],
    [{}, { Hooks: { poststop: [{ path: '/x' }] } }],
    [{}, { cgroups: { Systemd: true } }],
    [{}, { of_tomorrow: { deep: [1] } }],
    [{}, { oom_score_adj: 'high' }],
  ];
  for (const [state, config] of odd)
    assert.equal(runc(state, config), undefined, JSON.stringify([state, config]));
  const { linux, process } = crunConfig;
  for (const config of [
    { hooks: { poststop: [{ path: '/x' }] } },
    { annotations: { 'run.oci.handler': 'wasm' } },
    { linux: { ...linux, seccomp: { defaultAction: 'SCMP_ACT_ALLOW' } } },
    { linux: { ...linux, uidMappings: [{ containerID: 0 }] } },
    { linux: { ...linux, personality: { domain: 'LINUX32' } } },
    { process: { ...process, apparmorProfile: 'some' } },
    { process: { ...process, selinuxLabel: 'some' } },
    { process: { ...process, scheduler: { policy: 'SCHED_IDLE' } } },
    { unheardOf: true },
  ]) {
    assert.equal(crun(config), undefined, JSON.stringify(config));
  }
  // What is there and says nothing is no hindrance.
  assert.ok(crun({ hooks: {}, linux: { ...linux, seccomp: null } }) !== undefined);
});

test('an ordinary exec keeps its words, and takes from the container what it does not bring', () => {
  const found = plan({});
  assert.deepEqual(found?.program, { args: ['true'], env: ['PATH=/bin'], cwd: '/' });
  const { capabilities, oomScoreAdj, rlimits, noNewPrivileges } = found?.identity ?? {};
  assert.deepEqual(capabilities?.effective, [1 << 5, 0]);
  assert.deepEqual([oomScoreAdj, rlimits, noNewPrivileges], [100, [], false]);
  assert.equal(
    found?.identity.namespaces,
    0x2000_0000 + 0x0800_0000 + 0x0400_0000 + 0x0002_0000 + 0x4000_0000,
  );
  const own = plan({
    capabilities: { bounding: ['CAP_CHECKPOINT_RESTORE', 'CAP_AUDIT_CONTROL', 'CAP_SETFCAP', 'CAP_CHOWN'] },
    rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 }],
    user: { uid: 7, gid: 8, additionalGids: [9] },
    noNewPrivileges: true,
    consoleSize: { width: 80, height: 25 },
    terminal: false,
  })?.identity;
  assert.deepEqual(own?.capabilities.bounding, [0xc000_0001, 1 << 8]);
  assert.deepEqual(own?.capabilities.effective, [0, 0]);
  assert.deepEqual([own?.rlimits, own?.uid, own?.gid, own?.groups], [[[7, '1024', '4096']], 7, 8, [9]]);
  assert.equal(own?.noNewPrivileges, true);
});

test('execs with anything beyond the usual are for the runtime', () => {
  const limit = (type: string, soft: unknown = 1024, hard: unknown = 4096) => ({
    rlimits: [{ type, soft, hard }],
  });
  for (const more of [
    { terminal: true },
    { apparmorProfile: 'some' },
    { selinuxLabel: 'some' },
    { scheduler: { policy: 'SCHED_IDLE' } },
    { ioPriority: { class: 'IOPRIO_CLASS_IDLE' } },
    { execCPUAffinity: { initial: '0' } },
    { ofTomorrow: 1 },
    { args: [] },
    { args: [''] },
    { args: ['a\0b'] },
    { args: ['true', 1] },
    { cwd: 'relative' },
    { cwd: '' },
    { env: ['NOVALUE'] },
    { env: ['=x'] },
    { env: ['A=1', 'A=2'] },
    { env: ['HOME='] },
    { user: { uid: 0, gid: 0, umask: 7 } },
    { user: { uid: -1 } },
    { user: { username: 'ContainerAdmin' } },
    { capabilities: { bounding: ['CAP_OF_TOMORROW'] } },
    { capabilities: { effective: ['CAP_KILL'] } },
    { capabilities: { ambient: ['CAP_KILL'], permitted: ['CAP_KILL'] } },
    limit('RLIMIT_NPROC'),
    limit('RLIMIT_AS'),
    limit('RLIMIT_CPU'),
    limit('RLIMIT_NOFILE', 16),
    limit('RLIMIT_NOFILE', 8192),
    limit('RLIMIT_CORE', -1),
    limit('RLIMIT_CORE', 0, 18446744073709551615n.toString()),
  ]) {
    assert.equal(plan(more), undefined, JSON.stringify(more));
  }
  const shared = runc({}, { namespaces: [{ type: 'NEWNS', path: '' }] });
  assert.equal(plan({}, shared), undefined);
});
