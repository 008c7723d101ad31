// The Sandbox service of a shim that holds one sandbox.
import type { SandboxHostProtocol } from '../../actors/sandbox-host/protocol.ts';
import type { ActorRef, CallOptions } from '../../supervisor/types.ts';
import { fail } from '../model/errors.ts';
import { SandboxDefinition } from '../proto/gen/runtime/sandbox/v1/sandbox.ts';
import type { Platform } from '../proto/gen/types/platform.ts';
import { type CallContext, type TtrpcService, ttrpcService } from './service.ts';

export function sandboxHostService(
  sandbox: ActorRef<SandboxHostProtocol>,
  id: string,
  platform: Platform,
): TtrpcService {
  const options = ({ deadlineMs, signal }: CallContext): CallOptions => ({ deadlineMs, signal });
  const check = ({ sandboxId }: { sandboxId: string }): void => {
    if (sandboxId !== id) throw fail('not-found', `sandbox "${sandboxId}": this shim holds "${id}"`);
  };
  return ttrpcService(SandboxDefinition, {
    async createSandbox(request, context) {
      await sandbox.call('create', request, options(context));
      return {};
    },
    async startSandbox(request, context) {
      check(request);
      return await sandbox.call('start', undefined, options(context));
    },
    async platform(request, context) {
      check(request);
      await sandbox.call('ping', undefined, options(context));
      return { platform };
    },
    async stopSandbox(request, context) {
      check(request);
      await sandbox.call('stop', { timeoutMs: request.timeoutSecs * 1000 }, options(context));
      return {};
    },
    async waitSandbox(request, context) {
      check(request);
      return await sandbox.call('wait', undefined, options(context));
    },
    async sandboxStatus(request, context) {
      check(request);
      return await sandbox.call('status', { verbose: request.verbose }, options(context));
    },
    async pingSandbox(request, context) {
      check(request);
      await sandbox.call('ping', undefined, options(context));
      return {};
    },
    async shutdownSandbox(request, context) {
      check(request);
      await sandbox.call('shutdown', undefined, options(context));
      return {};
    },
    async sandboxMetrics(request, context) {
      check(request);
      return { metrics: await sandbox.call('metrics', undefined, options(context)) };
    },
  });
}
