// A whole Docker engine on the daemon: images, containers, execs, logs and figures, also while the daemon is killed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Daemon, startDaemon } from '../fixtures/daemon.ts';
import { type Docker, dockerMissing, startDocker } from '../fixtures/docker.ts';
import { busyboxLayer } from '../fixtures/image.ts';
import { killPid, until } from '../fixtures/process.ts';
import { subject } from './side.ts';

const patient = { timeoutMs: 60_000, intervalMs: 100 };
const sandboxed = ['--network', 'none'];

async function untilStatus(docker: Docker, name: string, status: string): Promise<void> {
  await until(
    `${name} is ${status}`,
    async () => ((await inspect(docker, name, '{{.State.Status}}')) === status ? true : undefined),
    patient,
  );
}

async function inspect(docker: Docker, name: string, format: string): Promise<string> {
  return (await docker.ok(['inspect', '--format', format, name])).trim();
}

async function untilLogged(docker: Docker, name: string, text: string): Promise<void> {
  await until(
    `${name} logs ${text}`,
    async () => ((await docker.ok(['logs', name])).includes(text) ? true : undefined),
    patient,
  );
}

/** Kills the daemon, lets `meanwhile` happen without one, starts it again. */
async function killDaemon(daemon: Daemon, meanwhile: () => Promise<void> = async () => undefined) {
  await daemon.stop('SIGKILL');
  await meanwhile();
  await daemon.start();
}

test('a Docker engine runs its containers here', { skip: dockerMissing }, async (t) => {
  await using daemon = await startDaemon(subject);
  await using docker = await startDocker(daemon);
  const image = 'busybox:test';

  await t.test('import, save and load an image', async () => {
    await docker.ok(['import', '-', 'imported:test'], { input: (await busyboxLayer('none')).bytes });
    const archive = `${daemon.directory}/image.tar`;
    await docker.ok(['save', '--output', archive, 'imported:test']);
    await docker.ok(['rmi', 'imported:test']);
    assert.match(await docker.ok(['load', '--input', archive]), /Loaded image: imported:test/);
    await docker.ok(['tag', 'imported:test', image]);
  });

  await t.test('run passes on output and exit status', async () => {
    const script = 'echo out; echo err >&2; exit 7';
    const outcome = await docker.run(['run', '--rm', ...sandboxed, image, 'sh', '-c', script]);
    assert.deepEqual(outcome, { code: 7, stdout: 'out\n', stderr: 'err\n' });
  });

  await t.test('run passes on input', async () => {
    const outcome = await docker.run(['run', '--rm', '-i', ...sandboxed, image, 'cat'], { input: 'given' });
    assert.deepEqual(outcome, { code: 0, stdout: 'given', stderr: '' });
  });

  await t.test('a command that is missing is told of', async () => {
    const outcome = await docker.run(['run', '--rm', ...sandboxed, image, 'no-such-command']);
    assert.equal(outcome.code, 127);
    assert.match(outcome.stderr, /no-such-command/);
  });

  const loop = 'trap "exit 42" TERM; echo started $$; while :; do sleep 0.05; done';
  await t.test('a container in the background: exec, logs, top, stats, update, pause', async () => {
    await docker.ok(['run', '--detach', '--name', 'one', ...sandboxed, image, 'sh', '-c', loop]);
    await untilLogged(docker, 'one', 'started 1');
    const exec = await docker.run(['exec', 'one', 'sh', '-c', 'echo inside; exit 3']);
    assert.deepEqual(exec, { code: 3, stdout: 'inside\n', stderr: '' });
    assert.match(await docker.ok(['top', 'one']), /sh -c trap/);
    const stats = await docker.ok(['stats', '--no-stream', '--format', '{{.PIDs}} {{.MemUsage}}', 'one']);
    assert.match(stats, /^[1-9]\d* [1-9]/);
    await docker.ok(['update', '--memory', '64m', '--memory-swap', '64m', 'one']);
    await docker.ok(['pause', 'one']);
    assert.equal(await inspect(docker, 'one', '{{.State.Status}}'), 'paused');
    await docker.ok(['unpause', 'one']);
  });

  await t.test('restart and stop use the status that the container gives', async () => {
    const before = await inspect(docker, 'one', '{{.State.Pid}}');
    await docker.ok(['restart', '--time', '30', 'one']);
    assert.notEqual(await inspect(docker, 'one', '{{.State.Pid}}'), before);
    await until(
      'it has started twice',
      async () => ((await docker.ok(['logs', 'one'])).split('started').length === 3 ? true : undefined),
      patient,
    );
    await docker.ok(['stop', '--time', '30', 'one']);
    assert.equal(await inspect(docker, 'one', '{{.State.Status}} {{.State.ExitCode}}'), 'exited 42');
    await docker.ok(['start', 'one']);
    await until(
      'it has started again',
      async () => ((await docker.ok(['logs', 'one'])).split('started').length === 4 ? true : undefined),
      patient,
    );
  });

  await t.test('a container lives on while the daemon is killed', async () => {
    const pid = await inspect(docker, 'one', '{{.State.Pid}}');
    await killDaemon(daemon);
    await until(
      'exec works again',
      async () => ((await docker.run(['exec', 'one', 'true'])).code === 0 ? true : undefined),
      patient,
    );
    assert.equal(await inspect(docker, 'one', '{{.State.Status}} {{.State.Pid}}'), `running ${pid}`);
    await docker.ok(['exec', 'one', 'sh', '-c', 'echo after the kill >/proc/1/fd/1']);
    await untilLogged(docker, 'one', 'after the kill');
    const stats = await docker.ok(['stats', '--no-stream', '--format', '{{.PIDs}} {{.MemUsage}}', 'one']);
    assert.match(stats, /^[1-9]\d* [1-9]/);
    const ran = await docker.run(['run', '--rm', ...sandboxed, image, 'sh', '-c', 'echo new; exit 7']);
    assert.deepEqual(ran, { code: 7, stdout: 'new\n', stderr: '' });
    // Only now that dockerd has its connection back: a signal that it cannot send it follows with SIGKILL, on its own.
    await docker.ok(['stop', '--time', '30', 'one']);
    assert.equal(await inspect(docker, 'one', '{{.State.Status}} {{.State.ExitCode}}'), 'exited 42');
    await docker.ok(['start', 'one']);
  });

  await t.test('a container that is killed while no daemon is there is seen to have exited', async () => {
    const pid = Number(await inspect(docker, 'one', '{{.State.Pid}}'));
    await killDaemon(daemon, async () => killPid(pid));
    await untilStatus(docker, 'one', 'exited');
    assert.equal(await inspect(docker, 'one', '{{.State.ExitCode}}'), '137');
    await docker.ok(['start', 'one']);
    await docker.ok(['rm', '--force', 'one']);
  });
});
