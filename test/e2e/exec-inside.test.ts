// Execs that Troupe's shim starts without the runtime are in no way different from those that runc and crun start.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { shimsOf, startDaemon } from '../fixtures/daemon.ts';
import { killPid, until } from '../fixtures/process.ts';
import { scratch } from '../fixtures/scratch.ts';
import { alive, makeRootfs, makeStreams, Tasks } from '../fixtures/tasks.ts';

const trouped = fileURLToPath(new URL('../../bin/trouped', import.meta.url));
const patient = { timeoutMs: 60_000 };

/** Everything that a process can tell of itself; then it waits for a line. */
const confession = [
  'grep -E "^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|SigQ|ShdPnd|SigBlk|SigIgn|SigCgt)" /proc/self/status',
  'cat /proc/self/limits /proc/self/oom_score_adj /proc/self/cgroup',
  'pwd; umask; echo "$0 $*"; env | sort; ls /proc/self/fd',
  'test "$(cut -d" " -f6 /proc/$$/stat)" = $$ && echo leads a session; cut -d" " -f7-8 /proc/$$/stat',
  'echo done; read x; exit 7',
].join('; ');

const capabilities = {
  bounding: ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_RAW', 'CAP_SETPCAP', 'CAP_CHECKPOINT_RESTORE'],
  effective: ['CAP_KILL'],
  permitted: ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_RAW'],
  inheritable: ['CAP_NET_RAW', 'CAP_KILL'],
  ambient: ['CAP_NET_RAW'],
};
const identities: Readonly<Record<string, object>> = {
  'what the container has': {},
  'a user with some rights': {
    ...{ capabilities, noNewPrivileges: true, cwd: '/tmp', oomScoreAdj: 555 },
    user: { uid: 1000, gid: 1001, additionalGids: [5, 7777] },
    env: ['PATH=/nowhere:/bin', 'A=one word', 'B='],
    rlimits: [
      // The Go of Debian's runc raises the soft limit.
      { type: 'RLIMIT_NOFILE', soft: 1024, hard: 1024 },
      { type: 'RLIMIT_CORE', soft: 0, hard: 4096 },
    ],
  },
  'a user without any': {
    capabilities: { bounding: [] },
    user: { uid: 77, gid: 77 },
    env: ['PATH=/bin', 'HOME=/somewhere'],
    cwd: '/run',
  },
};

interface Told {
  text: string;
  readonly inside: boolean;
  readonly namespaces: string[];
  readonly init: string[];
  readonly status: number;
}

/** Pid of the insider that is the parent of `pid`; undefined when the runtime has started that. */
function insiderOf(pid: number): number | undefined {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  return isInsider(parent) ? parent : undefined;
}

function isInsider(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('threads/insider');
  } catch {
    return false;
  }
}

function namespacesOf(pid: number): string[] {
  const names = readdirSync(`/proc/${pid}/ns`).filter((name) => !name.endsWith('_for_children'));
  return names.map((name) => readlinkSync(`/proc/${pid}/ns/${name}`));
}

const asSeen = (told: Told, id: string) =>
  told.text
    .replaceAll(id, 'ID')
    .replace(/^SigQ.*$/m, '')
    .replaceAll(/troupe-[^/]*|io-\w+/g, '');

const hybrid = existsSync('/sys/fs/cgroup/unified');
const onlyVersion2 = 'umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && ';
/** What each daemon sees of cgroups. crun refuses hybrid ones. */
const views: readonly (readonly [binary: string, view: string, name: string])[] = [
  ['runc', '', 'cgroups as they are'],
  ['crun', hybrid ? 'umount /sys/fs/cgroup/unified && ' : '', 'cgroups as they are'],
  ...(hybrid ? [['runc', onlyVersion2, 'cgroups of version 2'] as const] : []),
];

for (const [binary, view, name] of views) {
  test(`execs inside, with ${binary}, ${name}`, async (t) => {
    await using dir = scratch(`inside-${binary}`, '/dev/shm');
    const rootfs = await makeRootfs(dir.sub('rootfs'));
    execFileSync(join(rootfs, 'bin/busybox'), ['--install', '-s', join(rootfs, 'bin')], { stdio: 'ignore' });
    for (const name of readdirSync(join(rootfs, 'bin'))) {
      if (name !== 'busybox') execFileSync('ln', ['-sf', 'busybox', join(rootfs, 'bin', name)]);
    }
    writeFileSync(
      join(rootfs, 'etc/passwd'),
      'root:x:0:0::/root:/bin/sh\nsome:x:1000:1001::/home/some:/bin/sh\n',
    );
    mkdirSync(dir.sub('io'));
    const script = `${view}exec "$0" "$@"`;
    const command = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, trouped];
    const begin = async (insiders: string) =>
      await startDaemon('troupe', { parent: '/dev/shm', command, env: { TROUPE_SHIM_INSIDERS: insiders } });
    await using fast = await begin('8');
    await using slow = await begin('0');
    const side = { runtime: 'io.containerd.troupe.v1', binary };
    using inside = new Tasks(fast, rootfs, side);
    using outside = new Tasks(slow, rootfs, side);
    const shape = (spec: { process: { oomScoreAdj?: number } }) => {
      spec.process.oomScoreAdj = 300;
    };
    const id = await inside.running(['sleep', '100000'], { shape });
    const plainId = await outside.running(['sleep', '100000'], { shape });

    const exec = async (tasks: Tasks, container: string, more: object): Promise<Told> => {
      const io = makeStreams(dir.sub('io'));
      await tasks.exec(container, 'e', ['sh', '-c', confession, 'its name', 'a  b'], io, more);
      const { pid } = await tasks.start(container, 'e');
      await until('it has told', () => (io.out().includes('done\n') ? true : undefined), patient);
      const told = {
        ...{ text: io.out() + io.err(), inside: insiderOf(pid) !== undefined },
        ...{ namespaces: namespacesOf(pid), init: namespacesOf((await tasks.status(container))?.pid ?? 0) },
      };
      io.write('\n');
      const { exitStatus: status } = await tasks.wait(container, 'e');
      await tasks.call('deleteProcess', { containerId: container, execId: 'e' });
      await io.ended;
      io.close();
      return { ...told, status };
    };
    /** Once there is an insider for it. */
    const execInside = async (container: string, more: object = {}): Promise<Told> =>
      await until(
        'an insider is there',
        async () => {
          const told = await exec(inside, container, more);
          return told.inside ? told : undefined;
        },
        patient,
      );
    /** Leaves a process behind that waits for a line; its pid. */
    const waitInside = async (execId: string): Promise<{ pid: number; insider: number }> => {
      await execInside(id);
      await inside.exec(id, execId, ['sleep', '1000']);
      const { pid } = await inside.start(id, execId);
      const insider = insiderOf(pid);
      assert.ok(insider !== undefined);
      return { pid, insider };
    };

    for (const [name, more] of Object.entries(identities)) {
      await t.test(`the same to the process itself: ${name}`, async () => {
        const expected = await exec(outside, plainId, more);
        const got = await execInside(id, more);
        assert.equal(expected.inside, false);
        // The session of an exec of crun has no leader: a process on the way was.
        if (binary === 'crun') got.text = got.text.replace('leads a session\n', '');
        assert.equal(asSeen(got, id), asSeen(expected, plainId).replaceAll(slow.namespace, fast.namespace));
        assert.deepEqual(got.namespaces, got.init);
        assert.deepEqual([got.status, expected.status], [7, 7]);
      });
    }

    await t.test('an exec that cannot be has the same error', async () => {
      writeFileSync(join(rootfs, 'bin/plain'), 'no program\n');
      writeFileSync(join(rootfs, 'bin/words'), 'no program either\n');
      chmodSync(join(rootfs, 'bin/words'), 0o755);
      await execInside(id);
      const wrong: [string[], object?][] = [
        [['nosuch']],
        [['/bin/nosuch', 'x']],
        [['plain']],
        [['words']],
        [['/etc']],
        [['true'], { cwd: '/nosuch' }],
        [['true'], { cwd: '/proc/self/fd/3' }],
        [['true'], { cwd: '/proc/self/fd/9' }],
      ];
      for (const [args, more] of wrong) {
        const errorOf = async (tasks: Tasks, container: string) => {
          await tasks.exec(container, 'e', args, undefined, more);
          const error = await tasks.start(container, 'e').then(
            async () => (await tasks.wait(container, 'e')).exitStatus,
            ({ code, message }) => ({ code, message: String(message) }),
          );
          await tasks.call('deleteProcess', { containerId: container, execId: 'e' });
          return error;
        };
        const expected = await errorOf(outside, plainId);
        assert.notEqual(expected, 0);
        assert.deepEqual(await errorOf(inside, id), expected);
      }
    });

    await t.test('an insider can be neither written to nor looked into', async () => {
      const { insider } = await waitInside('e1');
      const program = `/proc/${insider}/exe`;
      // A read-only mount; that the file is busy protects it only as long as it runs.
      assert.throws(() => chmodSync(program, statSync(program).mode), { code: 'EROFS' });
      await inside.kill(id, 9, 'e1');
      assert.equal((await inside.wait(id, 'e1')).exitStatus, 137);
      await inside.call('deleteProcess', { containerId: id, execId: 'e1' });
      const user = { user: { uid: 77, gid: 77 } };
      await execInside(id, user);
      await inside.exec(id, 'e1', ['sleep', '1000'], undefined, user);
      const { pid } = await inside.start(id, 'e1');
      // It is user 77, and would be the owner if it could be traced.
      const other = insiderOf(pid) as number;
      assert.match(readFileSync(`/proc/${other}/status`, 'utf8'), /^Uid:\t77\t77\t77\t77$/m);
      assert.equal(statSync(`/proc/${other}/environ`).uid, 0);
      for (const thread of readdirSync(`/proc/${other}/task`)) {
        if (thread === String(other)) continue;
        const status = readFileSync(`/proc/${other}/task/${thread}/status`, 'utf8');
        assert.match(status, /^CapPrm:\t0+$/m);
        assert.match(status, /^CapEff:\t0+$/m);
      }
      const { processes } = await inside.call('listPids', { containerId: id });
      assert.equal(processes.length, 2);
      await inside.kill(id, 15, 'e1');
      await inside.kill(id, 9, 'e1').catch(() => undefined);
      assert.ok((await inside.wait(id, 'e1')).exitStatus > 128);
      await inside.call('deleteProcess', { containerId: id, execId: 'e1' });
      await until(
        'it is reaped',
        () => (alive(pid) || existsSync(`/proc/${pid}`) ? undefined : true),
        patient,
      );
    });

    await t.test('an insider that dies is replaced, and what it started is not lost', async () => {
      const { pid, insider } = await waitInside('e1');
      killPid(insider);
      await until('it is dead', () => (isInsider(insider) ? undefined : true), patient);
      assert.ok(alive(pid));
      const again = await execInside(id);
      assert.equal(again.status, 7);
      process.kill(pid, 'SIGKILL');
      assert.equal((await inside.wait(id, 'e1')).exitStatus, 137);
      await inside.call('deleteProcess', { containerId: id, execId: 'e1' });
    });

    await t.test('a paused container takes no exec', async () => {
      await execInside(id);
      const init = (await inside.status(id))?.pid;
      const freeze = (yes: boolean) => {
        if (view !== onlyVersion2) {
          const runtimeRoot = join('/run/containerd/runc', fast.namespace);
          execFileSync(binary, ['--root', runtimeRoot, yes ? 'pause' : 'resume', id]);
          return;
        }
        // runc itself would have to see what the daemon sees.
        const path = /^0::(.*)$/m.exec(readFileSync(`/proc/${init}/cgroup`, 'utf8'))?.[1];
        writeFileSync(`/sys/fs/cgroup/unified${path}/cgroup.freeze`, yes ? '1' : '0');
      };
      await inside.exec(id, 'e1', ['true']);
      freeze(true);
      try {
        await assert.rejects(inside.start(id, 'e1'), /paused/);
      } finally {
        freeze(false);
      }
      await inside.call('deleteProcess', { containerId: id, execId: 'e1' });
    });

    await t.test('insiders end with their container, and with their shim', async () => {
      const { pid, insider } = await waitInside('e1');
      await inside.kill(id);
      await inside.wait(id);
      await until('it has ended', () => (isInsider(insider) ? undefined : true), patient);
      assert.ok(!alive(pid));
      await inside.remove(id);
      const next = await inside.running(['sleep', '100000']);
      await execInside(next);
      const [shim] = shimsOf(fast.address);
      const insiders = readdirSync('/proc').filter((name) => {
        if (!/^\d+$/.test(name) || !isInsider(Number(name))) return false;
        return readFileSync(`/proc/${name}/stat`, 'utf8').split(' ')[3] === String(shim?.pid);
      });
      assert.equal(insiders.length, 1);
      killPid(shim?.pid as number);
      await until(
        'all have ended',
        () => (insiders.some((name) => isInsider(Number(name))) ? undefined : true),
        patient,
      );
      await inside.remove(next);
    });
    await outside.remove(plainId);
  });
}
