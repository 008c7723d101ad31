// A connection to a plugin behind a gRPC socket. Every call has a deadline; a plugin that is dead or silent is
// `unavailable` to whoever asked it, and found again when it is back.
import type { Client } from '@grpc/grpc-js';
import { codeOf, fail, wrap } from '../model/errors.ts';

type Grpc = typeof import('@grpc/grpc-js');

interface MessageType<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(input: Uint8Array): T;
}

/** One method of a generated service definition. */
export interface Method<Request, Response> {
  readonly name: string;
  readonly requestType: MessageType<Request>;
  readonly responseType: MessageType<Response>;
}

/** The error that the status of a failed call stands for. */
export type ErrorOfStatus = (code: number, details: string) => Error;

export interface PluginCallOptions {
  /** Which namespace the plugin is to work in; none when empty. */
  readonly namespace?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface PluginChannelOptions {
  readonly name: string;
  readonly address: string;
  readonly errorOfStatus: ErrorOfStatus;
  /** Of one call, the wait for a connection included. Default 10 minutes: fetching a layer may be behind it. */
  readonly callDeadlineMs?: number;
  /** How long a plugin may be away before a call is given up. Default 10 s. */
  readonly connectDeadlineMs?: number;
}

const callDeadlineMsDefault = 600_000;
const connectDeadlineMsDefault = 10_000;
const messageBytesMax = 16 * 1024 * 1024;
const messagesMax = 100_000;
const namespaceKey = 'containerd-namespace';
const cancelledStatus = 1;
const deadlineStatus = 4;

export class PluginChannel implements Disposable {
  readonly name: string;
  readonly address: string;
  readonly #options: PluginChannelOptions;
  #connected: Promise<{ grpc: Grpc; client: Client }> | undefined;
  #closed = false;

  constructor(options: PluginChannelOptions) {
    this.name = options.name;
    this.address = options.address;
    this.#options = options;
  }

  async call<Request, Response>(
    service: string,
    method: Method<Request, Response>,
    request: Request,
    options: PluginCallOptions = {},
  ): Promise<Response> {
    const { grpc, client } = await this.#ready();
    return new Promise((resolve, reject) => {
      const { signal } = options;
      const call = client.makeUnaryRequest(
        pathOf(service, method),
        serializer(method),
        (bytes: Buffer) => method.responseType.decode(bytes),
        request,
        metadataOf(grpc, options),
        { deadline: Date.now() + this.#callDeadlineMs },
        (error, response) => {
          signal?.removeEventListener('abort', cancel);
          if (error !== null) reject(this.#errorOf(error.code, error.details, signal));
          else resolve(response as Response);
        },
      );
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
      if (signal?.aborted) cancel();
    });
  }

  /** All messages of a server stream. */
  async collect<Request, Response>(
    service: string,
    method: Method<Request, Response>,
    request: Request,
    options: PluginCallOptions = {},
  ): Promise<Response[]> {
    const { grpc, client } = await this.#ready();
    return new Promise((resolve, reject) => {
      const { signal } = options;
      const responses: Response[] = [];
      const call = client.makeServerStreamRequest(
        pathOf(service, method),
        serializer(method),
        (bytes: Buffer) => method.responseType.decode(bytes),
        request,
        metadataOf(grpc, options),
        { deadline: Date.now() + this.#callDeadlineMs },
      );
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
      if (signal?.aborted) cancel();
      call.on('data', (response: Response) => {
        responses.push(response);
        if (responses.length <= messagesMax) return;
        reject(fail('resource-exhausted', `${this.#what()} sends more than ${messagesMax} messages`));
        cancel();
      });
      call.on('error', (error: { code?: number; details?: string }) => {
        signal?.removeEventListener('abort', cancel);
        reject(this.#errorOf(error.code ?? 2, error.details ?? String(error), signal));
      });
      call.on('end', () => {
        signal?.removeEventListener('abort', cancel);
        resolve(responses);
      });
    });
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    void this.#connected?.then(({ client }) => client.close()).catch(() => undefined);
    this.#connected = undefined;
  }

  get #callDeadlineMs(): number {
    return this.#options.callDeadlineMs ?? callDeadlineMsDefault;
  }

  #what(): string {
    return `proxy plugin "${this.name}" at ${this.address}`;
  }

  /** The plugin may start after the daemon, and again while it runs. */
  async #ready(): Promise<{ grpc: Grpc; client: Client }> {
    if (this.#closed) throw fail('unavailable', `${this.#what()} is closed`);
    this.#connected ??= this.#connect();
    const connected = await this.#connected;
    const { connectDeadlineMs = connectDeadlineMsDefault } = this.#options;
    return new Promise((resolve, reject) => {
      connected.client.waitForReady(Date.now() + connectDeadlineMs, (error) => {
        if (error === undefined || error === null) resolve(connected);
        else {
          const waited = `no connection within ${connectDeadlineMs} ms`;
          reject(fail('unavailable', `${this.#what()}: ${waited}: is it running?`, error));
        }
      });
    });
  }

  async #connect(): Promise<{ grpc: Grpc; client: Client }> {
    // Loaded with the first such plugin: most daemons have none, and it takes 20 MB.
    // A bundler gives what a CommonJS package exports as its default alone.
    const { default: grpc } = await import('@grpc/grpc-js');
    const client = new grpc.Client(`unix:${this.address}`, grpc.credentials.createInsecure(), {
      'grpc.max_receive_message_length': messageBytesMax,
      'grpc.max_send_message_length': messageBytesMax,
      'grpc.enable_http_proxy': 0,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.min_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
    });
    return { grpc, client };
  }

  #errorOf(status: number, details: string, signal: AbortSignal | undefined): Error {
    if (signal?.aborted) return fail('canceled', `${this.#what()}: canceled`, signal.reason);
    if (status === deadlineStatus) {
      return fail('unavailable', `${this.#what()} did not answer within ${this.#callDeadlineMs} ms`);
    }
    if (status === cancelledStatus)
      return fail('unavailable', `${this.#what()} gave the call up: ${details}`);
    const error = this.#options.errorOfStatus(status, details);
    return codeOf(error) === 'unavailable' ? wrap(this.#what(), error) : error;
  }
}

function pathOf(service: string, method: { readonly name: string }): string {
  return `/${service}/${method.name}`;
}

function serializer<Request>(method: Method<Request, unknown>): (request: Request) => Buffer {
  return (request) => {
    const bytes = method.requestType.encode(request).finish();
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

function metadataOf(grpc: Grpc, { namespace }: PluginCallOptions) {
  const metadata = new grpc.Metadata();
  if (namespace !== undefined && namespace !== '') metadata.set(namespaceKey, namespace);
  return metadata;
}
