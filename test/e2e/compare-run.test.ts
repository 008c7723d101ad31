// Containers and tasks by ctr on both daemons: run in the foreground, detached, on a terminal; exec, pause, kill, rm.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { busyboxImage } from '../fixtures/image.ts';
import { run, until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { lastFrame } from './mask.ts';
import { type Side, startPair } from './side.ts';

/** Waits until `ctr task ls` shows the task in a state; written down is only the last answer. */
async function untilTask(side: Side, id: string, status: string): Promise<void> {
  await until(`${id} is ${status}`, async () => {
    const { stdout } = await side.daemon.ctr(['task', 'ls']);
    return new RegExp(`^${id} +\\d+ +${status}`, 'm').test(stdout) ? true : undefined;
  });
}

const pids = (text: string): string => text.replace(/^(\S+ +)\d+( +)/gm, '$1PID$2');

async function lists(side: Side): Promise<void> {
  await side.ok(['task', 'ls'], { shape: pids });
  await side.ok(['task', 'ls', '-q']);
  await side.ok(['containers', 'ls']);
  await side.ok(['containers', 'ls', '-q']);
  await side.ok(['snapshots', 'ls']);
}

test('run: the same commands answer alike on both daemons', async (t) => {
  await using registry = await startRegistry();
  const ref = await registry.push(
    await busyboxImage({ Env: ['PATH=/bin', 'FROM_IMAGE=1'] }),
    'library/busybox',
    'latest',
  );
  await using pair = await startPair();
  await pair.alike(async (side) => {
    await side.ok(['images', 'pull', '--plain-http', ref], { shape: lastFrame });
  });

  await t.test('run --rm: output, streams, status', () =>
    pair.alike(async (side) => {
      await side.ctr(['run', '--rm', ref, 'c1', 'echo', 'hello']);
      await side.ctr(['run', '--rm', ref, 'c1', 'sh', '-c', 'echo out; echo err >&2; exit 7']);
      await side.ctr(['run', '--rm', ref, 'c1', 'sh', '-c', 'kill -9 $$']);
      await side.ctr(['run', '--rm', ref, 'c1', 'head', '-n1'], { input: 'from standard input\n' });
      await side.ctr(['run', '--rm', ref, 'c1', 'sh', '-c', 'head -c 3000000 /dev/zero | md5sum']);
      await side.ctr(['run', '--rm', ref, 'c1', 'sh', '-c', 'head -c 300000 /dev/zero | tr "\\0" x']);
      await lists(side);
    }),
  );

  await t.test('run with the flags that shape the spec', () =>
    pair.alike(async (side) => {
      const shared = join(side.daemon.directory, 'shared');
      writeFileSync(shared, 'shared\n');
      for (const [flags, command] of [
        [['--env', 'A=b'], 'env | sort'],
        [['--cwd', '/etc'], 'pwd'],
        [['--read-only'], 'echo x > /file; echo $?'],
        [
          ['--mount', `type=bind,src=${shared},dst=/shared,options=rbind:ro`],
          'cat /shared; echo x > /shared',
        ],
        [['--label', 'l=1', '--annotation', 'x=y'], 'true'],
        [['--net-host'], 'ls /sys/class/net | head -1'],
        [['--privileged'], 'grep Cap /proc/self/status'],
        [['--cap-drop', 'CAP_KILL'], 'grep Cap /proc/self/status'],
        [['--snapshotter', 'native'], 'ls /'],
        [['--memory-limit', '67108864', '--cpus', '0.5'], 'cat /proc/self/cgroup | sort'],
      ] as const) {
        await side.ctr(['run', '--rm', ...flags, ref, 'c2', 'sh', '-c', command]);
      }
      await side.ctr(
        [
          'run',
          '--rm',
          ref,
          'c2',
          'sh',
          '-c',
          'id; hostname; ls -la / /dev | grep -v " proc$"; cut -d" " -f2-4 /proc/mounts',
        ],
        {
          // The first line is the root's own mount, whose options name the snapshots.
          shape: (text) =>
            text.replace(/^total \d+$/gm, 'total').replace(/ \w{3} +\d+ \d\d:\d\d /g, ' TIME '),
        },
      );
    }),
  );

  await t.test('run -d, exec, pause, ps, kill, rm', () =>
    pair.alike(async (side) => {
      const loop = 'trap "exit 5" TERM; while :; do sleep 0.05; done';
      await side.ok(['run', '-d', '--label', 'app=loop', ref, 'web', 'sh', '-c', loop]);
      await lists(side);
      await side.ok(['containers', 'info', 'web']);
      await side.ok(['snapshots', 'tree']);
      await side.ok(['task', 'ps', 'web'], {
        shape: (text) => text.replace(/^\d+/gm, 'PID').replace(/(?:PID.*\n)+/, 'PID\n'),
      });
      await side.ctr(['task', 'exec', '--exec-id', 'e1', 'web', 'sh', '-c', 'echo in; echo err >&2; exit 3']);
      await side.ctr(['task', 'exec', '--exec-id', 'e1', 'web', 'cat'], { input: 'again\n' });
      await side.ctr([
        'task',
        'exec',
        '--exec-id',
        'e2',
        '--cwd',
        '/etc',
        '--user',
        '65534',
        'web',
        'sh',
        '-c',
        'id; pwd',
      ]);
      await side.ok(['task', 'exec', '-d', '--exec-id', 'e3', 'web', 'sleep', '100']);
      await side.ok(['task', 'kill', '--exec-id', 'e3', '-s', 'SIGKILL', 'web']);
      await side.ok(['task', 'pause', 'web']);
      await side.ok(['task', 'ls'], { shape: pids });
      await side.fails('web', ['task', 'exec', '--exec-id', 'e4', 'web', 'true']);
      await side.ok(['task', 'resume', 'web']);
      await side.ok(['task', 'ls'], { shape: pids });
      await side.fails('web', ['task', 'rm', 'web']);
      await side.ok(['task', 'kill', 'web']);
      await untilTask(side, 'web', 'STOPPED');
      await lists(side);
      await side.fails('', ['task', 'kill', 'web']);
      await side.ctr(['task', 'rm', 'web']);
      await lists(side);
      await side.ok(['task', 'start', '-d', 'web']);
      await untilTask(side, 'web', 'RUNNING');
      await side.ctr(['task', 'rm', '-f', 'web']);
      await side.ok(['containers', 'rm', 'web']);
      await lists(side);
    }),
  );

  await t.test('task metrics have the same rows', () =>
    pair.alike(async (side) => {
      await side.ok(['run', '-d', ref, 'measured', 'sleep', '100']);
      const shape = (text: string): string =>
        text.replace(/^(\S+ +)\d.*$/gm, '$1N').replace(/^.*ID.*$/m, 'ID');
      await side.ok(['task', 'metrics', 'measured'], {
        shape: (text) => shape(text).replace(/\[[\d ]*\]/g, '[N]'),
      });
      await side.ok(['task', 'kill', '-s', 'SIGKILL', 'measured']);
      await untilTask(side, 'measured', 'STOPPED');
      await side.ctr(['task', 'rm', 'measured']);
      await side.ok(['containers', 'rm', 'measured']);
    }),
  );

  await t.test('containers create, info, label; a task started later', () =>
    pair.alike(async (side) => {
      await side.ok(['containers', 'create', ref, 'later', 'echo', 'now']);
      await side.ok(['containers', 'info', 'later']);
      await side.ok(['containers', 'label', 'later', 'colour=red', 'shape=']);
      await side.ok(['containers', 'ls', 'labels.colour==red']);
      await side.ok(['containers', 'ls', 'labels.colour==blue']);
      await side.ok(['task', 'start', 'later']);
      await side.ok(['containers', 'rm', 'later']);
      await lists(side);
    }),
  );

  await t.test('run -t: a terminal of the given size', () =>
    pair.alike(async (side) => {
      // ctr sets the size after it has started the task.
      const sized = 'until test "$(stty size 2>&1)" = "30 100"; do sleep 0.05; done; echo sized';
      const inside = `test -t 0 && test -t 1 && echo terminal; echo $TERM; ${sized}; read line; echo got $line`;
      const { address, namespace } = side.daemon;
      const words = [
        'ctr',
        '-a',
        address,
        '-n',
        namespace,
        'run',
        '--rm',
        '-t',
        ref,
        'tty',
        'sh',
        '-c',
        `'${inside}'`,
      ];
      const outcome = await run(
        'script',
        ['-qefc', `stty rows 30 cols 100; ${words.join(' ')}`, '/dev/null'],
        {
          input: 'typed\n',
        },
      );
      // Which terminals echo what is typed, and when, depends on which of them is ready by then.
      side.note('ctr run -t', outcome, (text) => text.replace(/^(?:\^D|[\b])*typed\r+\n|\^D[\b]+/gm, ''));
      assert.match(outcome.stdout, /terminal\s+xterm\s+sized\s+got typed/);
    }),
  );

  await t.test('events of a container from create to delete', () =>
    pair.alike(async (side) => {
      await side.events(
        '/images/delete',
        async () => {
          await side.ctr(['run', '--rm', '--label', 'a=b', ref, 'heard', 'sh', '-c', 'exit 3']);
          await side.ok(['images', 'tag', ref, 'example.com/heard:1']);
          await side.ok(['images', 'rm', 'example.com/heard:1']);
        },
        // Releases of containerd put this option in different places.
        (lines) => lines.map((line) => line.replace(/"index=off",|,"index=off"/g, '')),
      );
    }),
  );
});
