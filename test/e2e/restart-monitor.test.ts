// The restart monitor: containers that ask for it by labels are started again, or stopped, or left alone.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { restartLabels } from '../../src/actors/restart/policy.ts';
import { ContainersDefinition } from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { TasksDefinition } from '../../src/api/proto/gen/services/tasks/v1/tasks.ts';
import { Status } from '../../src/api/proto/gen/types/task/task.ts';
import { startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { until } from '../fixtures/process.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

const patient = { timeoutMs: 60_000, intervalMs: 50 };
const config = '[plugins."io.containerd.monitor.container.v1.restart"]\ninterval = "200ms"\n';

test('the restart monitor', async () => {
  await using registry = await startRegistry();
  const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  await using daemon = await startDaemon(subject, { config });
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
  using client = daemon.grpc();
  const at = { namespace: daemon.namespace, deadlineMs: 60_000 };
  const log = join(daemon.directory, 'restarted.log');
  const make = (id: string, labels: Partial<Record<keyof typeof restartLabels, string>>, command: string) =>
    daemon.ctrOk([
      ...['containers', 'create'],
      ...Object.entries(labels).flatMap(([name, value]) => [
        '--label',
        `${restartLabels[name as keyof typeof restartLabels]}=${value}`,
      ]),
      ...['--', ref, id, 'sh', '-c', command],
    ]);
  const statusOf = async (id: string) => {
    const { tasks } = await client.call(TasksDefinition, 'list', {}, at);
    return tasks.find((task) => task.id === id)?.status;
  };
  const label = async (id: string, name: keyof typeof restartLabels) =>
    (await client.call(ContainersDefinition, 'get', { id }, at)).container?.labels.get(restartLabels[name]);

  await make('always', { status: 'running', logUri: `file://${log}` }, 'echo again; sleep 0.1');
  await make('failing', { status: 'running', policy: 'on-failure:1' }, 'exit 3');
  await make('no', { status: 'running', policy: 'no' }, 'sleep 1000');
  await make('stopped', { status: 'stopped' }, 'sleep 1000');
  await daemon.ctrOk(['task', 'start', '-d', 'stopped']);
  await daemon.ctrOk(['task', 'start', '-d', '--null-io', 'failing']);

  await until(
    'always ran three times',
    () => (readFileSync(log, 'utf8').split('again').length > 3 ? true : undefined),
    patient,
  );
  assert.ok(Number(await label('always', 'count')) >= 3);
  await until(
    'stopped has no task',
    async () => ((await statusOf('stopped')) === undefined ? true : undefined),
    patient,
  );
  await until(
    'failing was tried once more',
    async () => ((await label('failing', 'count')) === '1' ? true : undefined),
    patient,
  );
  await until(
    'failing has ended again',
    async () => ((await statusOf('failing')) === Status.STOPPED ? true : undefined),
    patient,
  );
  assert.equal(await statusOf('no'), undefined);
  // A container that changes its mind.
  await daemon.ctrOk(['containers', 'label', 'always', `${restartLabels.status}=stopped`]);
  await until(
    'always has no task',
    async () => ((await statusOf('always')) === undefined ? true : undefined),
    patient,
  );
  assert.equal(await label('failing', 'count'), '1');
});
