// What Troupe's shim does beyond the contract of tasks: loggers, memory, groups, clients that leave, runtimes that misbehave.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { EventsDefinition } from '../../src/api/proto/gen/services/events/v1/events.ts';
import { shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { runOk, until } from '../fixtures/process.ts';
import { mountsBelow, scratch } from '../fixtures/scratch.ts';
import { alive, makeRootfs, makeStreams, type Streams, Tasks } from '../fixtures/tasks.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));
const patient = { timeoutMs: 30_000 };

/** Streams that are no fifos. */
function addresses(stdout: string): Streams {
  return {
    ...{ stdin: '', stdout, stderr: stdout, terminal: false },
    out: () => '',
    err: () => '',
    write() {},
    endInput() {},
    ended: Promise.resolve(),
    close() {},
  };
}

test("Troupe's shim beyond the contract", async (t) => {
  await using dir = scratch('extras', '/dev/shm');
  const rootfs = await makeRootfs(dir.sub('rootfs'));
  mkdirSync(dir.sub('io'));
  const program = (name: string, script: string): string => {
    const path = dir.sub(name);
    writeFileSync(path, `#!/bin/sh\n${script}\n`);
    chmodSync(path, 0o755);
    return path;
  };
  await using daemon = await startDaemon('containerd', {
    parent: '/dev/shm',
    env: {
      PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`,
      TROUPE_SHIM_LINGER_MS: '1000',
      TROUPE_SHIM_RUNTIME_DEADLINE_MS: '10000',
    },
  });
  using tasks = new Tasks(daemon, rootfs, { runtime: 'io.containerd.troupe.v1' });

  await t.test('file:// appends both streams to a file', async () => {
    const path = dir.sub('logs/deep/out.log');
    for (const text of ['one', 'two']) {
      const args = ['sh', '-c', `echo ${text}; echo ${text} >&2`];
      const id = await tasks.running(args, { streams: addresses(`file://${path}`) });
      await tasks.wait(id);
      await tasks.remove(id);
    }
    assert.equal(readFileSync(path, 'utf8'), 'one\none\ntwo\ntwo\n');
  });

  await t.test('binary:// gives the output to a program, which knows whose it is', async () => {
    const log = dir.sub('logger.out');
    const logger = program(
      'logger',
      `echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $*" >${log}; printf x >&5; exec 5>&-; cat <&3 >>${log}; cat <&4 >>${log}`,
    );
    const streams = addresses(`binary://${logger}?key=value`);
    const id = await tasks.running(['sh', '-c', 'echo out; echo err >&2'], { streams });
    await tasks.wait(id);
    await until(
      'the logger has all',
      () => (/err/.test(readFileSync(log, 'utf8')) ? true : undefined),
      patient,
    );
    assert.equal(readFileSync(log, 'utf8'), `${daemon.namespace}/${id} key value\nout\nerr\n`);
    await tasks.remove(id);
  });

  await t.test('binary-v2:// fails Create when the program does not say that it is ready', async () => {
    const id = await tasks.container(['true']);
    const streams = addresses(`binary-v2://${program('mute', 'exit 0')}`);
    await assert.rejects(tasks.createTask(id, streams), { code: 2, message: /mute.*ready/ });
    assert.deepEqual(mountsBelow(daemon.state), []);
    await tasks.remove(id);
  });

  await t.test('a client that leaves ends neither the output nor the input', async () => {
    const io = makeStreams(dir.sub('io'));
    const script = 'read x; echo "got $x"; read y; exit 7';
    const id = await tasks.running(['sh', '-c', script], { streams: io });
    io.close();
    const input = await open(io.stdin, 'w');
    await input.write('line\n');
    const output = await open(io.stdout, 'r');
    const { buffer, bytesRead } = await output.read(Buffer.alloc(64), 0, 64);
    assert.equal(buffer.toString('utf8', 0, bytesRead), 'got line\n');
    await output.close();
    await input.write('end\n');
    await input.close();
    assert.equal((await tasks.wait(id)).exitStatus, 7);
    await tasks.remove(id);
  });

  await t.test('the end of a process for want of memory is told', async (context) => {
    if (existsSync('/sys/fs/cgroup/memory') === existsSync('/sys/fs/cgroup/cgroup.controllers')) {
      context.skip('no memory controller is mounted');
      return;
    }
    const following = tasks.client.follow(EventsDefinition, 'subscribe', {});
    const seen = (topic: string, id: string) =>
      following.messages.some(
        (message) => message.topic === topic && Buffer.from(message.event?.value ?? []).includes(id),
      );
    await until(
      'the listener hears',
      async () => {
        const id = await tasks.container(['true']);
        await tasks.remove(id);
        return seen('/containers/delete', id) ? true : undefined;
      },
      patient,
    );
    // tail keeps a line in memory as long as it gets.
    const id = await tasks.running(['sh', '-c', 'head -c 300000000 /dev/zero | tail'], {
      shape(spec) {
        spec.linux.resources.memory = { limit: 24 * 1024 * 1024 };
      },
    });
    await tasks.wait(id);
    await until('the event', () => (seen('/tasks/oom', id) ? true : undefined), patient);
    following.cancel();
    await tasks.remove(id);
  });

  await t.test('an annotation puts a container into a group with a process of its own', async () => {
    const group = (name: string) => ({
      shape(spec: { annotations?: object }) {
        spec.annotations = { 'io.containerd.runc.v2.group': name };
      },
    });
    const ids = [
      await tasks.running(['sleep', '1000']),
      await tasks.running(['sleep', '1000'], group('a')),
      await tasks.running(['sleep', '1000'], group('a')),
      await tasks.running(['sleep', '1000'], group('b')),
    ];
    assert.equal(shimsOf(daemon.address).length, 3);
    for (const id of ids) await tasks.remove(id);
    await until('all have ended', () => (shimsOf(daemon.address).length === 0 ? true : undefined), patient);
  });

  await t.test(
    'at the limit of descriptors Create is refused, and works again when there are some',
    async () => {
      const first = await tasks.running(['sleep', '1000']);
      const [shim] = shimsOf(daemon.address);
      const open = () => readdirSync(`/proc/${shim?.pid}/fd`).length;
      const limit = (count: number) => runOk('prlimit', [`--pid=${shim?.pid}`, `--nofile=${count}:`]);
      const before = open();
      const second = await tasks.running(['sleep', '1000'], { streams: makeStreams(dir.sub('io')) });
      assert.ok(open() - before <= 8, `${open() - before} descriptors for one container`);
      const refused = await tasks.container(['sleep', '1000']);
      // Some are kept for ending what runs.
      for (const room of [2, 20, 40]) {
        await limit(open() + room);
        await assert.rejects(tasks.createTask(refused), { message: /descriptors of the shim are in use/ });
        await limit(1024);
        await assert.rejects(tasks.call('get', { containerId: refused }), { code: 5 });
      }
      assert.equal(mountsBelow(daemon.state).length, 2);
      await tasks.createTask(refused);
      for (const id of [first, second, refused]) await tasks.remove(id);
    },
  );

  await t.test('a runtime that prints garbage, fails or hangs leaves nothing', async () => {
    const garbage = await tasks.container(
      ['true'],
      {},
      program('garbage', 'head -c 100000 /dev/urandom; exit 3'),
    );
    await assert.rejects(tasks.createTask(garbage), { code: 2, message: /garbage.*exit status 3/ });
    const pidFile = dir.sub('hanging.pid');
    const hanging = await tasks.container(
      ['true'],
      {},
      program('hanging', `case "$*" in *create*) echo $$ >${pidFile}; exec sleep 1000;; esac`),
    );
    await assert.rejects(tasks.createTask(hanging), { message: /hanging did not end within 10000 ms/ });
    const pid = Number(readFileSync(pidFile, 'utf8'));
    await until('the runtime is gone', () => (alive(pid) ? undefined : true), patient);
    assert.deepEqual(mountsBelow(daemon.state), []);
    assert.deepEqual((await tasks.call('list', {})).tasks, []);
    for (const id of [garbage, hanging]) {
      assert.ok(!existsSync(join(daemon.state, 'io.containerd.runtime.v2.task', daemon.namespace, id)));
      await tasks.remove(id);
    }
  });
});
