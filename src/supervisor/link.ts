// Mail between two threads over a MessagePort: what one turn sends goes out in one message.
import type { MessagePort } from 'node:worker_threads';
import type { ReplySink } from './actor.ts';
import { fromWire, KitError, toWire, type WireError } from './failure.ts';
import type { ActorSystem, Route } from './system.ts';
import type { ExitReason } from './types.ts';

/** The wire, one union: each item of a batch is one of these. */
type WireMail =
  | { t: 'call'; id: number; path: string; op: string; request: unknown }
  | { t: 'cast'; path: string; op: string; request: unknown }
  | { t: 'reply'; id: number; value: unknown }
  | { t: 'fail'; id: number; error: WireError }
  | { t: 'cancel'; id: number }
  | { t: 'watch'; id: number; path: string }
  | { t: 'unwatch'; id: number }
  | { t: 'down'; id: number; reason: WireExit };

type WireExit = { kind: 'normal' | 'shutdown' } | { kind: 'crash' | 'killed'; error: WireError };

function exitToWire(reason: ExitReason): WireExit {
  return 'error' in reason ? { kind: reason.kind, error: toWire(reason.error) } : { kind: reason.kind };
}

function exitFromWire(wire: WireExit): ExitReason {
  return 'error' in wire ? { kind: wire.kind, error: fromWire(wire.error) } : { kind: wire.kind };
}

/** Unanswered calls that one thread may have at another before further ones are refused. */
const pendingMax = 65_536;

export class Link implements Route {
  readonly #system: ActorSystem;
  readonly #port: MessagePort;
  readonly #peer: string;
  #nextId = 1;
  #out: WireMail[] = [];
  #transfer: ArrayBuffer[] = [];
  #flushing = false;
  #closed: KitError | undefined;
  readonly #pending = new Map<number, ReplySink>();
  readonly #watching = new Map<number, (reason: ExitReason) => void>();
  /** What the peer has asked for and may take back. */
  readonly #served = new Map<number, () => void>();

  constructor(system: ActorSystem, port: MessagePort, peer: string) {
    this.#system = system;
    this.#port = port;
    this.#peer = peer;
    port.on('message', (batch: WireMail[]) => {
      for (const mail of batch) this.#receive(mail);
    });
    port.on('close', () => this.close(`the port to ${peer} was closed`));
  }

  deliver(
    path: string,
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    transfer?: readonly ArrayBuffer[],
  ): () => void {
    if (this.#closed !== undefined) {
      sink?.fail(this.#closed);
      return () => {};
    }
    if (sink === undefined) {
      this.#send({ t: 'cast', path, op, request: compact(request, transfer) }, transfer);
      return () => {};
    }
    if (this.#pending.size >= pendingMax) {
      sink.fail(new KitError('resource-exhausted', `${pendingMax} calls to ${this.#peer} are waiting`));
      return () => {};
    }
    const id = this.#nextId++;
    this.#pending.set(id, sink);
    this.#send({ t: 'call', id, path, op, request: compact(request, transfer) }, transfer);
    return () => {
      if (this.#pending.delete(id)) this.#send({ t: 'cancel', id });
    };
  }

  watch(path: string, callback: (reason: ExitReason) => void): () => void {
    if (this.#closed !== undefined) {
      const reason: ExitReason = { kind: 'killed', error: this.#closed };
      this.#system.clock.defer(() => callback(reason));
      return () => {};
    }
    const id = this.#nextId++;
    this.#watching.set(id, callback);
    this.#send({ t: 'watch', id, path });
    return () => {
      if (this.#watching.delete(id)) this.#send({ t: 'unwatch', id });
    };
  }

  /** Ends the link: every call that waits for the other thread fails with `unavailable`. */
  close(why: string): void {
    if (this.#closed !== undefined) return;
    this.#closed = new KitError('unavailable', `thread ${this.#peer} is gone: ${why}`);
    this.#port.close();
    for (const sink of this.#pending.values()) sink.fail(this.#closed);
    this.#pending.clear();
    for (const callback of this.#watching.values()) callback({ kind: 'killed', error: this.#closed });
    this.#watching.clear();
    for (const cancel of this.#served.values()) cancel();
    this.#served.clear();
  }

  #receive(mail: WireMail): void {
    switch (mail.t) {
      case 'call': {
        const { id } = mail;
        let answered = false;
        const cancel = this.#system.deliver(mail.path, mail.op, mail.request, {
          reply: (value, transfer) => {
            answered = true;
            this.#served.delete(id);
            this.#send({ t: 'reply', id, value: compact(value, transfer) }, transfer);
          },
          fail: (error) => {
            answered = true;
            this.#served.delete(id);
            this.#send({ t: 'fail', id, error: toWire(error) });
          },
        });
        if (!answered) this.#served.set(id, cancel);
        return;
      }
      case 'cast':
        this.#system.deliver(mail.path, mail.op, mail.request, undefined);
        return;
      case 'reply':
      case 'fail': {
        const sink = this.#pending.get(mail.id);
        this.#pending.delete(mail.id);
        if (mail.t === 'reply') sink?.reply(mail.value);
        else sink?.fail(fromWire(mail.error));
        return;
      }
      case 'watch':
        this.#served.set(
          mail.id,
          this.#system.watch(mail.path, (reason) => {
            this.#served.delete(mail.id);
            this.#send({ t: 'down', id: mail.id, reason: exitToWire(reason) });
          }),
        );
        return;
      case 'cancel':
      case 'unwatch':
        this.#served.get(mail.id)?.();
        this.#served.delete(mail.id);
        return;
      case 'down': {
        const callback = this.#watching.get(mail.id);
        this.#watching.delete(mail.id);
        callback?.(exitFromWire(mail.reason));
        return;
      }
    }
  }

  #send(mail: WireMail, transfer?: readonly ArrayBuffer[]): void {
    if (this.#closed !== undefined) return;
    this.#out.push(mail);
    if (transfer !== undefined) this.#transfer.push(...transfer);
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    const batch = this.#out;
    const transfer = this.#transfer;
    this.#out = [];
    this.#transfer = [];
    if (this.#closed !== undefined) return;
    try {
      this.#port.postMessage(batch, transfer);
    } catch (error) {
      // One item that cannot be cloned must not take its neighbours with it.
      if (batch.length === 1) this.#undeliverable(batch[0] as WireMail, error);
      else for (const mail of batch) this.#sendAlone(mail, transfer);
    }
  }

  #sendAlone(mail: WireMail, transfer: ArrayBuffer[]): void {
    try {
      this.#port.postMessage(
        [mail],
        transfer.filter((buffer) => mentions(mail, buffer)),
      );
    } catch (error) {
      this.#undeliverable(mail, error);
    }
  }

  #undeliverable(mail: WireMail, error: unknown): void {
    const why = new KitError('internal', `a message to ${this.#peer} cannot be sent`, { cause: error });
    if (mail.t === 'call') {
      const sink = this.#pending.get(mail.id);
      this.#pending.delete(mail.id);
      sink?.fail(why);
    } else if (mail.t === 'reply') {
      this.#port.postMessage([{ t: 'fail', id: mail.id, error: toWire(why) } satisfies WireMail]);
    }
  }
}

const compactDepthMax = 6;

/**
 * Copies byte views that show a small part of a large buffer. Structured clone copies the whole buffer behind
 * a view, and slices of the network's 64 KiB read buffers are the common case.
 */
function compact(value: unknown, transfer: readonly ArrayBuffer[] | undefined, depth = 0): unknown {
  if (typeof value !== 'object' || value === null || depth > compactDepthMax) return value;
  if (ArrayBuffer.isView(value)) {
    if (!(value instanceof Uint8Array)) return value;
    const whole = value.byteLength === value.buffer.byteLength;
    if (whole || value.buffer instanceof SharedArrayBuffer || transfer?.includes(value.buffer)) return value;
    return value.slice();
  }
  if (Array.isArray(value)) {
    let copy: unknown[] | undefined;
    for (let i = 0; i < value.length; i++) {
      const item = compact(value[i], transfer, depth + 1);
      if (item !== value[i]) {
        copy ??= value.slice();
        copy[i] = item;
      }
    }
    return copy ?? value;
  }
  if (value instanceof Map) {
    for (const [key, item] of value) {
      const small = compact(item, transfer, depth + 1);
      if (small !== item) value.set(key, small);
    }
    return value;
  }
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  let copy: Record<string, unknown> | undefined;
  for (const key in value) {
    const item = (value as Record<string, unknown>)[key];
    if (typeof item !== 'object' || item === null) continue;
    const small = compact(item, transfer, depth + 1);
    if (small !== item) {
      copy ??= { ...(value as Record<string, unknown>) };
      copy[key] = small;
    }
  }
  return copy ?? value;
}

function mentions(value: unknown, buffer: ArrayBuffer, depth = 0): boolean {
  if (typeof value !== 'object' || value === null || depth > compactDepthMax) return false;
  if (value === buffer) return true;
  if (ArrayBuffer.isView(value)) return value.buffer === buffer;
  return Object.values(value).some((item) => mentions(item, buffer, depth + 1));
}
