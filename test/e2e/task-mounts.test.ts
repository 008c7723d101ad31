// Root file systems of special mounts: the daemon performs its part at Create and takes it away at Delete, whatever
// happens in between.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { MountsDefinition } from '../../src/api/proto/gen/services/mounts/v1/mounts.ts';
import { type DaemonOptions, startDaemon } from '../fixtures/daemon.ts';
import { mountsBelow, scratch } from '../fixtures/scratch.ts';
import { makeRootfs, Tasks } from '../fixtures/tasks.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const options: DaemonOptions = {
  parent: '/dev/shm',
  env: { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`, TROUPE_SHIM_LINGER_MS: '1000' },
};

for (const runtime of ['io.containerd.troupe.v1', 'io.containerd.runc.v2']) {
  test(`special mounts of tasks: ${runtime}`, async (t) => {
    await using dir = scratch('mounts', '/dev/shm');
    const lower = await makeRootfs(dir.sub('rootfs'));
    await using daemon = await startDaemon('troupe', options);
    using tasks = new Tasks(daemon, lower, { runtime });
    const layers = join(daemon.root, 'layers');
    mkdirSync(layers);
    const special = (id: string) => [
      { type: 'bind', source: lower, options: ['rbind', 'ro'] },
      {
        type: 'format/mkdir/overlay',
        source: 'overlay',
        options: [
          `X-containerd.mkdir.path=${layers}/${id}/upper:0755`,
          `X-containerd.mkdir.path=${layers}/${id}/work`,
          'lowerdir={{ mount 0 }}',
          `upperdir=${layers}/${id}/upper`,
          `workdir=${layers}/${id}/work`,
        ],
      },
    ];
    const create = (id: string) => tasks.call('create', { containerId: id, rootfs: special(id) });
    const names = async () => {
      const at = { namespace: daemon.namespace };
      const listed = await tasks.client.list(MountsDefinition, 'list', {}, at);
      return listed.map(({ info }) => info?.name);
    };
    const nothingLeft = async () => {
      assert.deepEqual(mountsBelow(daemon.directory), []);
      assert.deepEqual(await names(), []);
    };

    await t.test('performed at Create, given back at Delete', async () => {
      const id = await tasks.container(['sh', '-c', 'echo written > /new; exit 3']);
      await create(id);
      assert.deepEqual(await names(), [id]);
      await tasks.start(id);
      assert.equal((await tasks.wait(id)).exitStatus, 3);
      await tasks.call('delete', { containerId: id });
      await nothingLeft();
      assert.equal(readFileSync(join(layers, id, 'upper/new'), 'utf8'), 'written\n');
      await tasks.remove(id);
    });

    await t.test('given back when Create fails', async () => {
      const id = await tasks.container(['nosuch']);
      await assert.rejects(create(id), { code: 2, message: /nosuch/ });
      await nothingLeft();
      const bad = [{ type: 'format/bind', source: '{{ mount 7 }}' }];
      await assert.rejects(tasks.call('create', { containerId: id, rootfs: bad }), {
        message: /mounts of task/,
      });
      await nothingLeft();
      await assert.rejects(tasks.call('get', { containerId: id }), { code: 5 });
      await tasks.remove(id);
    });

    await t.test('given back by the daemon after the one that made them', async () => {
      const id = await tasks.container(['sleep', '1000']);
      await create(id);
      await tasks.start(id);
      await daemon.stop('SIGKILL');
      await daemon.start();
      tasks.reconnect();
      assert.deepEqual(await names(), [id]);
      await tasks.kill(id);
      await tasks.wait(id);
      await tasks.call('delete', { containerId: id });
      await nothingLeft();
      await tasks.remove(id);
    });

    await t.test('a spec that maps ids of mounts is refused by name, where the runtime cannot', async () => {
      const ids = [{ containerID: 0, hostID: 1000, size: 1 }];
      chmodSync(dir.path, 0o755);
      const id = await tasks.container(['true'], {
        shape(spec) {
          spec.mounts.push({
            destination: '/mnt',
            type: 'bind',
            source: dir.path,
            options: ['rbind'],
            uidMappings: ids,
            gidMappings: ids,
          });
        },
      });
      await assert.rejects(tasks.createTask(id), { code: 2, message: /maps ids of mounts/ });
      assert.ok(!existsSync(join(daemon.state, 'io.containerd.runtime.v2.task', daemon.namespace, id)));
      await tasks.remove(id);
    });
  });
}
