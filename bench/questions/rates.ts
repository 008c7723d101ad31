// How many calls a second: version, and create, get and list of containers, with 1, 16 and 64 calls in flight.
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ContainersDefinition,
  CreateContainerRequest,
  GetContainerRequest,
  ListContainersRequest,
} from '../../src/api/proto/gen/services/containers/v1/containers.ts';
import { VersionDefinition } from '../../src/api/proto/gen/services/version/v1/version.ts';
import { type Daemon, startDaemon } from '../../test/fixtures/daemon.ts';
import { type Bench, daemonOf, kinds, type Medium, mediums, parentOf, type Question } from '../harness.ts';
import { generate } from '../load.ts';
import { container } from '../requests.ts';

const concurrencies = [1, 16, 64];
const listedCount = 100;
const placeholder = 'PLACEHOLDER-OF-AN-IDENTIFIER';

interface Call {
  name: string;
  path: string;
  namespace: string;
  bodies: Uint8Array[];
  placeholder?: string;
}

function calls(): Call[] {
  const containers = (method: string): string => `/${ContainersDefinition.fullName}/${method}`;
  const ids = Array.from({ length: listedCount }, (_, index) => `listed-${index}`);
  return [
    {
      name: 'version',
      path: `/${VersionDefinition.fullName}/Version`,
      namespace: 'rates',
      bodies: [new Uint8Array()],
    },
    {
      name: 'container create',
      path: containers('Create'),
      namespace: 'rates',
      bodies: [CreateContainerRequest.encode({ container: container(placeholder) }).finish()],
      placeholder,
    },
    {
      name: 'container get',
      path: containers('Get'),
      namespace: 'listed',
      bodies: ids.map((id) => GetContainerRequest.encode({ id }).finish()),
    },
    {
      name: `container list (${listedCount})`,
      path: containers('List'),
      namespace: 'listed',
      bodies: [ListContainersRequest.encode({ filters: [] }).finish()],
    },
  ];
}

async function fill(daemon: Daemon): Promise<void> {
  using client = daemon.grpc();
  for (let index = 0; index < listedCount; index++) {
    const request = { container: container(`listed-${index}`) };
    await client.call(ContainersDefinition, 'create', request, { namespace: 'listed' });
  }
}

async function measure(bench: Bench, medium: Medium): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const daemons: Daemon[] = [];
  for (const kind of kinds) daemons.push(stack.use(await startDaemon(kind, { parent: parentOf(medium) })));
  await Promise.all(daemons.map(fill));
  const durationMs = bench.quick ? 400 : 1_000;
  const roundCount = bench.quick ? 3 : 5;
  for (const { name, ...call } of calls()) {
    // Neither version, get nor list writes, so one medium is enough for them.
    if (medium === 'tmpfs' && name !== 'container create') continue;
    for (const concurrency of concurrencies) {
      await bench.alternate({ medium, unit: '1/s', better: 'higher', roundCount }, async (kind) => {
        const daemon = daemonOf(daemons, kind);
        const result = await generate({ ...call, socketPath: daemon.address, concurrency, durationMs });
        if (result.errors > 0)
          throw new Error(`${kind}: ${name}: ${result.errors} errors: ${result.firstError}`);
        // The other side's write-back and garbage should not fall into this side's time.
        await sleep(50);
        return { [`${name}, concurrency ${concurrency}`]: result.perSecond };
      });
    }
  }
}

export const question: Question = {
  name: 'rates',
  asks: 'Calls a second over one connection, from a worker thread that speaks just enough HTTP/2 to count the answers; a request to create a container has about 2.3 KB.',
  async run(bench) {
    for (const medium of mediums) await measure(bench, medium);
  },
};
