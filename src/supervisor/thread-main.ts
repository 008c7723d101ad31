// What runs first on a worker thread that hosts actors.
import { workerData } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { KitError, toWire } from './failure.ts';
import { Link } from './link.ts';
import { type ChildSpec, Supervisor } from './supervisor.ts';
import { ActorSystem } from './system.ts';
import { takeSnapshot } from './telemetry.ts';
import type { ControlAnswer, ThreadControl, ThreadData, ThreadStart } from './thread.ts';

async function main(): Promise<void> {
  const { name, module, data, mail, control } = workerData as ThreadData;
  const system = new ActorSystem({ name, onCrash: (path, error) => link.reportCrash(path, error) });
  const link: Link = new Link(system, mail, 'main', endThread);
  system.setUplink(link);
  const supervisor = await Supervisor.start(system, {
    path: name,
    strategy: 'one_for_one',
    intensity: { restartsMax: 5, withinMs: 10_000 },
  });
  // When the thread's own supervisor gives up, the thread ends and its parent decides.
  void supervisor.exited.then((reason) => {
    if (reason.kind === 'crash') endThread(reason.error);
  });
  const kinds = new Map<string, (id: string, args: never) => ChildSpec>();
  const { start } = (await import(module)) as { start: ThreadStart };
  const started = start({ data, system, supervisor, define: (kind, make) => void kinds.set(kind, make) });
  started.catch(() => {});
  const face: ThreadControl = {
    ready: () => answer(() => started),
    spawn: (kind, id, args) =>
      answer(async () => {
        const make = kinds.get(kind);
        if (make === undefined) throw new KitError('unimplemented', `thread ${name} has no kind "${kind}"`);
        await supervisor.startChild(make(id, args as never));
      }),
    stop: (id) => answer(() => supervisor.stopChild(id)),
    telemetry: () => answer(() => takeSnapshot(system)),
    shutdown: () => answer(() => supervisor.stop({ kind: 'shutdown' })),
  };
  Comlink.expose(face, nodeEndpoint(control));
}

/** Throws where nobody catches: the thread ends, and its host tells the supervisor why. */
function endThread(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

async function answer<T>(work: () => Promise<T>): Promise<ControlAnswer<T>> {
  try {
    return { ok: true, value: await work() };
  } catch (error) {
    return { ok: false, error: toWire(error) };
  }
}

await main();
