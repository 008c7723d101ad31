// Containers that are confined further, with runc and crun: user namespaces, seccomp, AppArmor, cgroups of systemd.
import assert from 'node:assert/strict';
import { chmodSync, chownSync, existsSync, mkdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startDaemon } from '../fixtures/daemon.ts';
import { mountsBelow, scratch } from '../fixtures/scratch.ts';
import { makeRootfs, makeStreams, type RunOptions, Tasks } from '../fixtures/tasks.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const hostId = 200_000;
const mapping = [{ containerID: 0, hostID: hostId, size: 65_536 }];

// crun 1.8 refuses hybrid cgroups.
const hybrid = existsSync('/sys/fs/cgroup/unified');
const script = `${hybrid ? 'umount /sys/fs/cgroup/unified && ' : ''}exec "$0" "$@"`;
const command = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, join(bin, 'trouped')];

for (const binary of ['runc', 'crun']) {
  test(`confined containers: ${binary}`, async (t) => {
    await using dir = scratch('confined', '/dev/shm');
    const rootfs = await makeRootfs(dir.sub('rootfs'));
    // The root of the user namespace looks into it.
    chownSync(rootfs, hostId, hostId);
    mkdirSync(dir.sub('io'));
    const env = { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`, TROUPE_SHIM_LINGER_MS: '1000' };
    await using daemon = await startDaemon('troupe', { parent: '/dev/shm', env, command });
    // What is outside the daemon's own directories lets pass as well.
    chmodSync(daemon.directory, 0o711);
    using tasks = new Tasks(daemon, rootfs, { runtime: 'io.containerd.troupe.v1', binary });

    async function printed(
      args: string[],
      shape: NonNullable<RunOptions['shape']>,
    ): Promise<{ out: string; code: number }> {
      const streams = makeStreams(dir.sub('io'));
      const id = await tasks.running(args, { streams, shape });
      const { exitStatus } = await tasks.wait(id);
      await tasks.call('delete', { containerId: id });
      await streams.ended;
      streams.close();
      await tasks.remove(id);
      return { out: streams.out() + streams.err(), code: exitStatus };
    }

    await t.test('a user namespace: its root is nobody outside, also for execs', async () => {
      const shape = (spec: { linux: { namespaces: object[] } }) => {
        spec.linux.namespaces.push({ type: 'user' });
        Object.assign(spec.linux, { uidMappings: mapping, gidMappings: mapping });
      };
      const { out, code } = await printed(['sh', '-c', 'cat /proc/self/uid_map; exit 7'], shape);
      assert.match(out, /^ +0 +200000 +65536\n$/);
      assert.equal(code, 7);
      const id = await tasks.running(['sleep', '1000'], { shape });
      const io = makeStreams(dir.sub('io'));
      await tasks.exec(id, 'e1', ['cat', '/proc/self/gid_map'], io);
      await tasks.start(id, 'e1');
      assert.equal((await tasks.wait(id, 'e1')).exitStatus, 0);
      await tasks.call('deleteProcess', { containerId: id, execId: 'e1' });
      await io.ended;
      assert.match(io.out(), /^ +0 +200000 +65536\n$/);
      io.close();
      await tasks.remove(id);
    });

    await t.test('seccomp: a call that the profile forbids fails', async () => {
      const { out, code } = await printed(
        ['sh', '-c', 'sleep 0; head -n1 /proc/self/status; kill -0 1'],
        (spec) => {
          spec.linux.seccomp = {
            defaultAction: 'SCMP_ACT_ALLOW',
            syscalls: [{ names: ['kill'], action: 'SCMP_ACT_ERRNO', errnoRet: 1 }],
          };
        },
      );
      assert.match(out, /Name:\thead/);
      assert.match(out, /not permitted/);
      assert.equal(code, 1);
    });

    const appArmor = existsSync('/sys/kernel/security/apparmor');
    await t.test(
      'AppArmor: a profile that is not loaded is refused',
      { skip: !appArmor && 'no AppArmor here' },
      async () => {
        const id = await tasks.container(['true'], {
          shape(spec) {
            spec.process.apparmorProfile = 'no-such-profile';
          },
        });
        await assert.rejects(tasks.createTask(id), { message: /apparmor/i });
        await tasks.remove(id);
      },
    );

    const systemd = existsSync('/run/systemd/system');
    await t.test(
      'cgroups of systemd where there is none: the runtime says so, and nothing is left',
      { skip: systemd && 'systemd runs here' },
      async () => {
        const id = await tasks.container(['true'], {
          shape(spec) {
            spec.linux.cgroupsPath = `system.slice:troupe:${daemon.namespace}`;
          },
        });
        const create = {
          containerId: id,
          rootfs: [{ type: 'bind', source: rootfs, options: ['rbind', 'rw'] }],
        };
        await assert.rejects(
          tasks.call('create', { ...create, options: tasks.options(binary, { systemdCgroup: true }) }),
          {
            code: 2,
            message: /OCI runtime create failed: .*(systemd|sd-bus|dbus|bus)/i,
          },
        );
        assert.deepEqual(mountsBelow(daemon.state), []);
        await assert.rejects(tasks.call('get', { containerId: id }), { code: 5 });
        await tasks.remove(id);
      },
    );
  });
}
