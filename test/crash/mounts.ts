// Mounts that the daemon performs and keeps, in a crash trial: a bind mount that another one is told of.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MountsDefinition } from '../../src/api/proto/gen/services/mounts/v1/mounts.ts';
import type { ActivationInfo } from '../../src/api/proto/gen/types/mount.ts';
import { mountsBelow } from '../fixtures/scratch.ts';
import { randomLease } from './choices.ts';
import { type Data, type Key, keyOf, labelsText, partsOf, Violation } from './model.ts';
import { mountData } from './records.ts';
import { namespaces, type Outcome, type World } from './world.ts';

export const treeFile = 'here';
const halfMade = '[]';

export function pointsOf(data: Data): string[] {
  return JSON.parse(data['points'] ?? '[]') as string[];
}

/** Left in the middle of its making or its end; the next start takes it away. */
export function isHalfMade(data: Data | undefined): boolean {
  return data?.['points'] === halfMade;
}

/** What a request may leave that was refused in its middle. */
function half(key: Key, data: Data): readonly [Key, Data] {
  return [key, { ...data, labels: '*', points: halfMade, stamp: '*' }];
}

export async function activateMount(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const name = `m${random.int(0, 3)}`;
  const key = keyOf('mount', namespace, name);
  const lease = randomLease(world, namespace);
  await world.withLocks({ write: [key] }, async () => {
    const labels = new Map([['l', world.unique('v')]]);
    if (random.chance(0.3)) labels.set('containerd.io/gc.bref.container', `c${random.int(0, 11)}`);
    const stored = model.get(key);
    const note = lease === undefined ? {} : { _lease: lease };
    const data: Data = { labels: labelsText(labels), points: '*', stamp: '*', ...note };
    const created: Outcome = {
      code: 'OK',
      changes: [[key, data]],
      learn: ({ info }: { info?: ActivationInfo | undefined }) =>
        info === undefined ? [] : [[key, { ...mountData(info), ...note }]],
    };
    const existed: Outcome = { code: 'ALREADY_EXISTS', changes: [[key, stored]] };
    const outcomes: Outcome[] = [];
    if (stored !== undefined && !isHalfMade(stored)) outcomes.push(existed);
    if (stored === undefined || isHalfMade(stored) || model.isAtRisk(key)) outcomes.push(created);
    // No answer has this code: it stands for what only a refusal may leave.
    if (world.refusals.size > 0) outcomes.push({ code: 'refused', changes: [half(key, data)] });
    const mounts = [
      { type: 'bind', source: world.tree, options: ['rbind', 'ro'] },
      { type: 'format/bind', source: '{{ mount 0 }}', options: ['rbind'] },
    ];
    const code = await world.attempt(
      `activate ${key}, lease ${lease}`,
      outcomes,
      () =>
        calls.call(MountsDefinition, 'activate', { name, mounts, labels } as never, {
          namespace,
          ...(lease === undefined ? {} : { lease }),
        }),
      { inSteps: true },
    );
    if (code === 'OK') world.activations++;
  });
}

export async function deactivateMount(world: World): Promise<void> {
  const { random, model, calls } = world;
  const namespace = random.pick(namespaces);
  const keys = model.keys('mount', namespace);
  if (keys.length === 0) return;
  const key = random.pick(keys);
  await world.withLocks({ write: [key] }, async () => {
    const stored = model.get(key);
    if (stored === undefined) return;
    const outcomes: Outcome[] = [{ code: 'OK', changes: [[key, undefined]] }];
    if (model.isAtRisk(key)) outcomes.push({ code: 'NOT_FOUND', changes: [[key, undefined]] });
    if (world.refusals.size > 0) outcomes.push({ code: 'refused', changes: [half(key, stored)] });
    await world.attempt(
      `deactivate ${key}`,
      outcomes,
      () => calls.call(MountsDefinition, 'deactivate', { name: partsOf(key).id } as never, { namespace }),
      { inSteps: true },
    );
  });
}

/**
 * Throws unless what is recorded is mounted; `isQuiet` says that nothing is being collected either, so that nothing
 * else may be mounted.
 */
export function checkMounts({ model }: World, directory: string, isQuiet: boolean): void {
  const recorded = new Set<string>();
  const mounted = new Set(mountsBelow(directory));
  for (const [key, data] of model.objects) {
    if (!key.startsWith('mount|')) continue;
    for (const point of pointsOf(data)) {
      recorded.add(point);
      if (model.isAtRisk(key)) continue;
      if (!mounted.has(point)) throw model.violation(key, `is recorded, but nothing is mounted at ${point}`);
      const text = readFileSync(join(point, treeFile), 'utf8');
      if (text !== treeFile) throw model.violation(key, `has other files at ${point}`);
    }
  }
  if (!isQuiet) return;
  for (const point of mounted)
    if (!recorded.has(point)) throw new Violation(`${point} is mounted for nobody`);
}
