// A differ behind a gRPC socket (`type = "diff"`). It fetches and stores layers through the daemon's own content
// service, so it is handed descriptors and answers with them.
import { fail } from '../model/errors.ts';
import type { RemoteDiffer } from '../model/ports/differ.ts';
import { type ApplyRequest, DiffDefinition, type DiffRequest } from '../proto/gen/services/diff/v1/diff.ts';
import type { Descriptor } from '../proto/gen/types/descriptor.ts';
import type { PluginCallOptions, PluginChannel } from './plugin-channel.ts';

const service = DiffDefinition.fullName;

export class ProxyDiffer implements RemoteDiffer, AsyncDisposable {
  readonly #channel: PluginChannel;

  constructor(channel: PluginChannel) {
    this.#channel = channel;
  }

  get name(): string {
    return this.#channel.name;
  }

  async remoteApply(request: ApplyRequest, options: PluginCallOptions): Promise<Descriptor> {
    const { applied } = await this.#channel.call(service, DiffDefinition.methods.apply, request, options);
    return this.#given(applied);
  }

  async remoteDiff(request: DiffRequest, options: PluginCallOptions): Promise<Descriptor> {
    const { diff } = await this.#channel.call(service, DiffDefinition.methods.diff, request, options);
    return this.#given(diff);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#channel[Symbol.dispose]();
  }

  #given(descriptor: Descriptor | undefined): Descriptor {
    if (descriptor !== undefined) return descriptor;
    throw fail('unknown', `differ ${this.name} answered without a descriptor`);
  }
}
