// The sandbox of a shim: no process of its own but the shim, whose containers come and go with it. What it is stands in its
// bundle, so that a shim that takes over for one that died goes on with it.
import { codeOf, fail } from '../../api/model/errors.ts';
import type { ContainerHost, SandboxRecord } from '../../api/model/ports/container-host.ts';
import type { Log } from '../../api/model/ports/log.ts';
import { timestampOfNs } from '../../api/model/time.ts';
import {
  type CreateSandboxRequest,
  SandboxStatusResponse,
  StartSandboxResponse,
  WaitSandboxResponse,
} from '../../api/proto/gen/runtime/sandbox/v1/sandbox.ts';
import { Metric } from '../../api/proto/gen/types/metrics.ts';
import { defineActor } from '../../supervisor/actor.ts';
import { type ActorRef, type Call, noReply, type Settled } from '../../supervisor/types.ts';
import type { ContainerProtocol } from '../container/protocol.ts';
import type { SandboxHostProtocol } from './protocol.ts';

export interface SandboxHostArgs {
  readonly id: string;
  /** Of the sandbox; it may hold the record of one. */
  readonly bundle: string;
  readonly host: Pick<ContainerHost, 'sandboxes' | 'cgroups' | 'mountRootfs' | 'unmountRootfs' | 'nowNs'>;
  readonly containers: () => ReadonlyMap<string, ActorRef<ContainerProtocol>>;
  readonly log: Log;
}

interface SandboxState {
  readonly args: SandboxHostArgs;
  record: SandboxRecord | undefined;
  readonly waiters: Set<Call<WaitSandboxResponse>>;
}

type Signal = { kind: 'ended'; outcome: Settled<unknown>; call: Call<undefined>; forget: boolean };

const waitersMax = 1024;
const killDeadlineMs = 30_000;
const signals = { term: 15, kill: 9 } as const;

export const sandboxHostActor = defineActor<SandboxHostProtocol, Signal, SandboxState, SandboxHostArgs>({
  name: 'sandbox',
  mailboxLengthMax: 4096,
  stopTimeoutMs: 10_000,

  init: (_context, args) => ({ args, record: args.host.sandboxes.load(args.bundle), waiters: new Set() }),

  handleCall: {
    create(state, request) {
      if (state.record !== undefined) throw fail('already-exists', `sandbox "${request.sandboxId}"`);
      state.record = createSandbox(state.args, request);
      return undefined;
    },

    start(state) {
      const record = recordOf(state);
      if (record.state !== 'created')
        throw fail('failed-precondition', `sandbox "${record.id}" is ${record.state}`);
      save(state, { ...record, state: 'ready' });
      return StartSandboxResponse.create({ pid: process.pid, createdAt: timeOf(record.createdAtNs) });
    },

    stop(state, { timeoutMs }, call, context) {
      recordOf(state);
      context.start(
        () => endContainers(state.args, timeoutMs),
        (outcome) => ({ kind: 'ended', outcome, call, forget: false }),
      );
      return noReply;
    },

    wait(state, _request, call) {
      const record = recordOf(state);
      if (record.state === 'stopped') return waited(record);
      if (state.waiters.size >= waitersMax) {
        throw fail('resource-exhausted', `${waitersMax} calls wait for sandbox "${record.id}" already`);
      }
      state.waiters.add(call);
      call.onCancel(() => state.waiters.delete(call));
      return noReply;
    },

    status(state, { verbose }) {
      const record = recordOf(state);
      const containers = [...state.args.containers().keys()].sort().join();
      return SandboxStatusResponse.create({
        sandboxId: record.id,
        pid: process.pid,
        state: record.state === 'ready' ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY',
        info: new Map(verbose ? Object.entries({ netns: record.netnsPath, containers }) : []),
        createdAt: timeOf(record.createdAtNs),
        exitedAt: record.exitedAtNs === undefined ? undefined : timeOf(record.exitedAtNs),
      });
    },

    ping(state) {
      recordOf(state);
      return undefined;
    },

    shutdown(state, _request, call, context) {
      const { mounted } = recordOf(state);
      const { args } = state;
      const work = async () => {
        await endContainers(args, 0);
        if (mounted) await args.host.unmountRootfs(args.bundle);
      };
      context.start(work, (outcome) => ({ kind: 'ended', outcome, call, forget: true }));
      return noReply;
    },

    async metrics(state) {
      const { id } = recordOf(state);
      const { cgroups, nowNs } = state.args.host;
      const found = cgroups.locate(process.pid);
      if (found === undefined) throw fail('not-found', `cgroup of sandbox "${id}"`);
      return Metric.create({ id, timestamp: timestampOfNs(nowNs()), data: await cgroups.stats(found) });
    },
  },

  handleSignal(state, { outcome, call, forget }) {
    if (!outcome.ok) {
      call.fail(outcome.error);
      return;
    }
    const { args, record } = state;
    if (record !== undefined && record.state !== 'stopped') {
      save(state, { ...record, state: 'stopped', exitedAtNs: String(args.host.nowNs()) });
    }
    for (const waiter of state.waiters) waiter.reply(waited(state.record ?? record));
    state.waiters.clear();
    if (forget) {
      args.host.sandboxes.forget(args.bundle);
      state.record = undefined;
    }
    call.reply(undefined);
  },
});

function createSandbox({ id, bundle, host }: SandboxHostArgs, request: CreateSandboxRequest): SandboxRecord {
  const { sandboxId, rootfs, netnsPath } = request;
  if (sandboxId !== id) {
    throw fail(
      'invalid-argument',
      `this shim holds the sandbox "${id}": "${sandboxId}" needs one of its own`,
    );
  }
  const mounted = rootfs.length > 0;
  const record: SandboxRecord = {
    ...{ format: 1, id, netnsPath, mounted },
    state: 'created',
    createdAtNs: String(host.nowNs()),
  };
  // Nothing runs in it; it is there for containers that look for it in the bundle.
  if (mounted) host.mountRootfs(bundle, rootfs);
  host.sandboxes.save(bundle, record);
  return record;
}

function recordOf({ args, record }: SandboxState): SandboxRecord {
  if (record === undefined) throw fail('not-found', `sandbox "${args.id}"`);
  return record;
}

function save(state: SandboxState, record: SandboxRecord): void {
  state.args.host.sandboxes.save(state.args.bundle, record);
  state.record = record;
}

async function endContainers({ containers, log }: SandboxHostArgs, timeoutMs: number): Promise<void> {
  const failures = (
    await Promise.allSettled(
      [...containers().values()].map((container) => endContainer(container, timeoutMs)),
    )
  ).filter((result) => result.status === 'rejected');
  for (const { reason } of failures) log.warn('container of a sandbox does not end', { error: reason });
  if (failures.length > 0) throw failures[0]?.reason;
}

async function endContainer(container: ActorRef<ContainerProtocol>, timeoutMs: number): Promise<void> {
  try {
    if (timeoutMs > 0) {
      await container.call('kill', { execId: '', signal: signals.term, all: false });
      const ended = await container.call('wait', { execId: '' }, { deadlineMs: timeoutMs }).catch((error) => {
        if (codeOf(error) === 'deadline-exceeded') return undefined;
        throw error;
      });
      if (ended !== undefined) return;
    }
    await container.call('kill', { execId: '', signal: signals.kill, all: true });
    await container.call('wait', { execId: '' }, { deadlineMs: killDeadlineMs });
  } catch (error) {
    // It has ended by itself, or was deleted meanwhile.
    if (codeOf(error) !== 'not-found' && codeOf(error) !== 'unavailable') throw error;
  }
}

/** A sandbox has no process whose status could be anything else. */
function waited(record: SandboxRecord | undefined): WaitSandboxResponse {
  return WaitSandboxResponse.create({ exitStatus: 0, exitedAt: timeOf(record?.exitedAtNs ?? '0') });
}

const timeOf = (ns: string) => timestampOfNs(BigInt(ns));
