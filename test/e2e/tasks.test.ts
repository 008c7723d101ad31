// The contract of tasks on Troupe with its own shim and with containerd's, and on Debian's containerd with Troupe's shim.
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { taskSuite } from '../suites/task.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const env = { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`, TROUPE_SHIM_LINGER_MS: '2000' };
const own = 'io.containerd.troupe.v1';

taskSuite('Troupe, its own shim, runc', { kind: 'troupe', runtime: own, daemon: { env } });
taskSuite('Troupe, containerd-shim-runc-v2', {
  kind: 'troupe',
  runtime: 'io.containerd.runc.v2',
  oldShim: true,
});
taskSuite('containerd, containerd-shim-runc-v2', {
  kind: 'containerd',
  runtime: 'io.containerd.runc.v2',
  oldShim: true,
});
taskSuite("containerd, Troupe's shim, runc", { kind: 'containerd', runtime: own, daemon: { env } });

// crun 1.8 refuses hybrid cgroups: the daemon gets a mount namespace without the unified hierarchy.
const withoutUnified = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c'];
const hybrid = existsSync('/sys/fs/cgroup/unified');
const script = `${hybrid ? 'umount /sys/fs/cgroup/unified && ' : ''}exec "$0" "$@"`;
taskSuite('Troupe, its own shim, crun', {
  kind: 'troupe',
  runtime: own,
  binary: 'crun',
  daemon: { env, command: [...withoutUnified, script, join(bin, 'trouped')] },
});
