// Serves figures for Prometheus at /v1/metrics, as containerd does. Loaded only when an address is configured.
import { createServer } from 'node:http';
import { type GcProtocol, gcPath } from '../../actors/gc/protocol.ts';
import type { TaskDirectory } from '../../actors/task/directory.ts';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { parseListenAddress } from '../../io/config/metrics.ts';
import type { ActorSystem } from '../../supervisor/system.ts';
import type { CallCounters } from './calls.ts';
import { addTaskFigures } from './cgroups.ts';
import { addCollectionFigures } from './collections.ts';
import { DaemonFigures } from './daemon.ts';
import { contentType, Exposition } from './exposition.ts';

export interface MetricsDeps {
  readonly address: string;
  readonly system: ActorSystem;
  readonly calls: CallCounters;
  readonly tasks: TaskDirectory;
  readonly namespaces: () => readonly string[];
  /** What one task may take for its figures. */
  readonly statsTimeoutMs: number;
  readonly version: string;
  readonly log: Log;
}

const path = '/v1/metrics';
const requestTimeoutMs = 60_000;
const connectionsMax = 64;
/** Tasks that are asked at a time. */
const atOnceMax = 64;

export async function startMetrics(deps: MetricsDeps): Promise<AsyncDisposable> {
  const figures = new DaemonFigures(deps.system);
  let collecting: Promise<string> | undefined;
  const server = createServer({ requestTimeout: requestTimeoutMs }, (request, response) => {
    if (new URL(request.url ?? '', 'http://localhost').pathname !== path) {
      response.writeHead(404, { 'content-type': 'text/plain' }).end(`figures are at ${path}\n`);
      return;
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { allow: 'GET, HEAD' }).end();
      return;
    }
    // Whoever asks meanwhile gets the same answer.
    collecting ??= collect(deps, figures).finally(() => {
      collecting = undefined;
    });
    collecting.then(
      (text) => response.writeHead(200, { 'content-type': contentType }).end(text),
      (error) => {
        deps.log.error('metrics cannot be gathered', { error });
        response.writeHead(500).end(`${messageOf(error)}\n`);
      },
    );
  });
  server.maxConnections = connectionsMax;
  const { host, port } = parseListenAddress(deps.address);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(fail('unavailable', `metrics cannot be served at ${deps.address}: ${error.message}`, error));
    });
    server.listen(port, host, resolve);
  });
  return {
    async [Symbol.asyncDispose]() {
      figures[Symbol.dispose]();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function collect(deps: MetricsDeps, figures: DaemonFigures): Promise<string> {
  const exposition = new Exposition();
  const build = { version: deps.version };
  exposition.add('containerd_build_info_total', 'counter', 'Version of the daemon.', 1, build);
  deps.calls.addTo(exposition);
  await Promise.all([
    figures.addTo(exposition),
    addCollections(deps, exposition),
    addTasks(deps, exposition),
  ]);
  return exposition.text();
}

async function addCollections({ system }: MetricsDeps, exposition: Exposition): Promise<void> {
  const figures = await system.ref<GcProtocol>(gcPath).call('figures', {});
  addCollectionFigures(exposition, figures);
}

async function addTasks(
  { tasks, namespaces, statsTimeoutMs }: MetricsDeps,
  exposition: Exposition,
): Promise<void> {
  const all = namespaces().flatMap((namespace) => tasks.ids(namespace).map((id) => ({ namespace, id })));
  const waiting = all.values();
  const work = async () => {
    for (const key of waiting) {
      const labels = { container_id: key.id, namespace: key.namespace };
      // A task without figures is left out, as in the Tasks service.
      const stats = await tasks
        .find(key)
        ?.call('stats', { deadlineMs: statsTimeoutMs })
        .catch(() => undefined);
      if (stats !== undefined) addTaskFigures(exposition, stats, labels);
    }
  };
  await Promise.all(Array.from({ length: atOnceMax }, work));
}
