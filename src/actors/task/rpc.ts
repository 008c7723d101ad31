// The task service of one shim as typed calls, through the shim's actor.
import type { BinaryWriter } from '@bufbuild/protobuf/wire';
import { codeOf, fail } from '../../api/model/errors.ts';
import { isConnectionClosed } from '../../api/model/ports/shim.ts';
import {
  StateRequest,
  type StateResponse,
  TaskDefinition,
} from '../../api/proto/gen/runtime/task/v3/shim.ts';
import type { ActorRef } from '../../supervisor/types.ts';
import type { ShimFacts, ShimProtocol } from '../shim/protocol.ts';

interface Codec<T> {
  encode(message: T, writer?: BinaryWriter): BinaryWriter;
  decode(input: Uint8Array): T;
}

export interface Method<Request, Response> {
  readonly name: string;
  readonly requestType: Codec<Request>;
  readonly responseType: Codec<Response>;
}

export interface TaskTimeouts {
  /** Calls that a healthy shim answers soon. */
  readonly callMs: number;
  /** Calls that run a container to or from somewhere: create, start, delete, checkpoint, update. */
  readonly slowCallMs: number;
}

export const taskTimeoutsDefault: TaskTimeouts = { callMs: 30_000, slowCallMs: 600_000 };

/** The kit's own deadline comes after the shim's, so that the shim's error is the one that is seen. */
const deadlineSlackMs = 1000;

/** A service of a shim. Aborting `signal` makes its calls stop waiting. */
export class ShimService {
  readonly #shim: ActorRef<ShimProtocol>;
  readonly #signal: AbortSignal | undefined;

  constructor(shim: ActorRef<ShimProtocol>, signal?: AbortSignal) {
    this.#shim = shim;
    this.#signal = signal;
  }

  /** `Infinity` waits for ever. Without a `service` the task service is meant. */
  async call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    deadlineMs: number,
    service?: string,
  ): Promise<Response> {
    const payload = method.requestType.encode(request).finish();
    const call = { method: method.name, payload, deadlineMs };
    const answer = await this.#shim.call('call', service === undefined ? call : { ...call, service }, {
      deadlineMs: deadlineMs + deadlineSlackMs,
      ...(this.#signal === undefined ? {} : { signal: this.#signal }),
    });
    return this.#decode(method, answer);
  }

  /** Where the shim is, once that is known; undefined when there is none. */
  async facts(deadlineMs: number): Promise<ShimFacts | undefined> {
    try {
      return await this.#shim.call('attach', undefined, {
        deadlineMs,
        ...(this.#signal === undefined ? {} : { signal: this.#signal }),
      });
    } catch (error) {
      // Its actor has ended with it.
      if (codeOf(error) === 'unavailable') return undefined;
      throw error;
    }
  }

  #decode<Request, Response>(method: Method<Request, Response>, answer: Uint8Array): Response {
    try {
      return method.responseType.decode(answer);
    } catch (error) {
      throw fail('internal', `shim answered ${method.name} with a malformed message`, error);
    }
  }
}

/** How many shims in a row may die under one question. */
const asksMax = 5;

/** The task service for one task. */
export class ShimTask {
  readonly id: string;
  readonly #service: ShimService;
  readonly #timeouts: TaskTimeouts;

  constructor(id: string, shim: ActorRef<ShimProtocol>, timeouts: TaskTimeouts, signal?: AbortSignal) {
    this.id = id;
    this.#service = new ShimService(shim, signal);
    this.#timeouts = timeouts;
  }

  /** `limit` names a timeout or is one in milliseconds; `Infinity` waits for ever. */
  async call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    limit: keyof TaskTimeouts | number = 'callMs',
  ): Promise<Response> {
    return await this.#service.call(method, request, this.#msOf(limit));
  }

  /** A shim that is gone has no such task: `not-found`. One that takes its tasks over is asked again. */
  async state(execId: string, limit: keyof TaskTimeouts | number = 'callMs'): Promise<StateResponse> {
    const request = StateRequest.create({ id: this.id, execId });
    for (let asked = 1; ; asked++) {
      try {
        return await this.call(TaskDefinition.methods.state, request, limit);
      } catch (error) {
        if (!isConnectionClosed(error)) throw error;
        if (asked < asksMax && (await this.#succeeded(limit))) continue;
        throw fail('not-found', `task "${this.id}"`, error);
      }
    }
  }

  /** After its shim has died: whether there is another one, which is waited for. */
  async #succeeded(limit: keyof TaskTimeouts | number): Promise<boolean> {
    return (await this.#service.facts(this.#msOf(limit))) !== undefined;
  }

  #msOf(limit: keyof TaskTimeouts | number): number {
    return typeof limit === 'number' ? limit : this.#timeouts[limit];
  }
}
