// The contract of tasks where cgroups are version 2 alone: the daemon, its shims and its runtimes get a mount namespace
// that shows nothing else. Machines that count by version 1 have no controllers left for it: nothing is limited there.
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type TaskSubject, taskSuite } from '../suites/task.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const env = { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`, TROUPE_SHIM_LINGER_MS: '2000' };
const view = 'umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"';
const command = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', view, join(bin, 'trouped')];

function unified(binary: string, more: Partial<TaskSubject> = {}): void {
  taskSuite(`Troupe, its own shim, ${binary}, cgroups of version 2`, {
    kind: 'troupe',
    runtime: 'io.containerd.troupe.v1',
    binary,
    daemon: { env, command },
    noControllers: true,
    cgroups: 2,
    ...more,
  });
}

if (existsSync('/sys/fs/cgroup/unified')) {
  unified('runc');
  // For rules of devices crun raises a limit, which machines for tests may not let it do.
  unified('crun', {
    shape(spec) {
      delete spec.linux.resources;
    },
  });
} else {
  test('cgroups of version 2', {
    skip: 'this machine has no hybrid cgroups: tasks.test.ts sees what it has',
  });
}
