// Mail between two threads over a MessagePort: what one turn sends goes out in one message.
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import type { ReplySink } from './actor.ts';
import { fromWire, KitError, toWire, type WireError } from './failure.ts';
import { type Delivery, delivered } from './pending-call.ts';
import type { ActorSystem, Route } from './system.ts';
import type { ExitReason } from './types.ts';
import { compact, mentions } from './wire-copy.ts';

/** The wire, one union: each item of a batch is one of these. */
type WireMail =
  | { t: 'call'; id: number; path: string; op: string; request: unknown }
  | { t: 'cast'; path: string; op: string; request: unknown }
  | { t: 'castsTaken'; count: number }
  | { t: 'reply'; id: number; value: unknown }
  | { t: 'fail'; id: number; error: WireError }
  | { t: 'cancel'; id: number }
  | { t: 'watch'; id: number; path: string }
  | { t: 'unwatch'; id: number }
  | { t: 'down'; id: number; reason: WireExit }
  | { t: 'exit'; path: string; reason: WireExit }
  | { t: 'crashed'; path: string; error: WireError };

type WireExit = { kind: 'normal' | 'shutdown' } | { kind: 'crash' | 'killed'; error: WireError };

function exitToWire(reason: ExitReason): WireExit {
  return 'error' in reason ? { kind: reason.kind, error: toWire(reason.error) } : { kind: reason.kind };
}

function exitFromWire(wire: WireExit): ExitReason {
  return 'error' in wire ? { kind: wire.kind, error: fromWire(wire.error) } : { kind: wire.kind };
}

/** Unanswered calls that one thread may have at another before further ones are refused. */
export const pendingMax = 65_536;
/** Casts that one thread may have on their way to another before further ones are dropped. */
export const castsInFlightMax = 65_536;
/** After so many casts the receiver says that it has taken them. */
const castsPerReceipt = 1_024;

export interface LinkCounters {
  peer: string;
  sent: number;
  received: number;
  /** MessagePort messages sent; `sent / batches` is how well batching works. */
  batches: number;
  pending: number;
  refused: number;
  castsDropped: number;
}

export class Link implements Route {
  readonly #system: ActorSystem;
  readonly #port: MessagePort;
  readonly #onBroken: (error: unknown) => void;
  #nextId = 1;
  #out: WireMail[] = [];
  #transfer: ArrayBuffer[] = [];
  #flushing = false;
  #closed: KitError | undefined;
  #portClosed = false;
  readonly #pending = new Map<number, ReplySink>();
  readonly #watching = new Map<number, (reason: ExitReason) => void>();
  /** What the peer has asked for and may take back. */
  readonly #served = new Map<number, Delivery>();
  #castsInFlight = 0;
  #castsTaken = 0;
  readonly #counters: Omit<LinkCounters, 'pending'>;

  /** `onBroken` hears of mail that could not be read: what was in it is lost, so the thread had better end. */
  constructor(system: ActorSystem, port: MessagePort, peer: string, onBroken: (error: unknown) => void) {
    this.#system = system;
    this.#port = port;
    this.#onBroken = onBroken;
    this.#counters = { peer, sent: 0, received: 0, batches: 0, refused: 0, castsDropped: 0 };
    port.on('message', (batch: WireMail[]) => this.#receiveAll(batch));
    port.on('messageerror', (error) => this.#onBroken(error));
    port.on('close', () => {
      this.#portClosed = true;
      this.close(`the port to ${peer} was closed`);
    });
  }

  counters(): LinkCounters {
    return { ...this.#counters, pending: this.#pending.size };
  }

  deliver(
    path: string,
    op: string,
    request: unknown,
    sink: ReplySink | undefined,
    transfer?: readonly ArrayBuffer[],
  ): Delivery {
    if (sink === undefined) {
      if (this.#closed !== undefined || this.#castsInFlight >= castsInFlightMax) {
        this.#counters.castsDropped++;
        return delivered;
      }
      this.#castsInFlight++;
      this.#send({ t: 'cast', path, op, request: compact(request, transfer) }, transfer);
      return delivered;
    }
    if (this.#closed !== undefined) {
      sink.fail(this.#closed);
      return delivered;
    }
    if (this.#pending.size >= pendingMax) {
      this.#counters.refused++;
      sink.fail(
        new KitError('resource-exhausted', `${pendingMax} calls to ${this.#counters.peer} are waiting`),
      );
      return delivered;
    }
    const id = this.#nextId++;
    this.#pending.set(id, sink);
    this.#send({ t: 'call', id, path, op, request: compact(request, transfer) }, transfer);
    return {
      cancel: () => {
        if (this.#pending.delete(id)) this.#send({ t: 'cancel', id });
      },
    };
  }

  watch(path: string, callback: (reason: ExitReason) => void): () => void {
    if (this.#closed !== undefined) {
      const reason: ExitReason = { kind: 'killed', error: this.#closed };
      let live = true;
      this.#system.clock.defer(() => live && callback(reason));
      return () => {
        live = false;
      };
    }
    const id = this.#nextId++;
    this.#watching.set(id, callback);
    this.#send({ t: 'watch', id, path });
    return () => {
      if (this.#watching.delete(id)) this.#send({ t: 'unwatch', id });
    };
  }

  exit(path: string, reason: ExitReason): void {
    this.#send({ t: 'exit', path, reason: exitToWire(reason) });
  }

  /** Tells the other side of an actor that crashed here, so that one place reports those of all threads. */
  reportCrash(path: string, error: unknown): void {
    this.#send({ t: 'crashed', path, error: toWire(error) });
  }

  /** Ends the link: what has arrived is still read, then every call that waits for the other thread fails. */
  close(why: string): void {
    if (this.#closed !== undefined) return;
    // Node crashes when it is asked for the mail of a port that has closed; it has delivered all of it by then.
    while (!this.#portClosed) {
      const left = receiveMessageOnPort(this.#port);
      if (left === undefined) break;
      this.#receiveAll(left.message);
    }
    const closed = new KitError('unavailable', `thread ${this.#counters.peer} is gone: ${why}`);
    this.#closed = closed;
    this.#port.close();
    const pending = [...this.#pending.values()];
    const watching = [...this.#watching.values()];
    const served = [...this.#served.values()];
    this.#pending.clear();
    this.#watching.clear();
    this.#served.clear();
    for (const sink of pending) sink.fail(closed);
    for (const callback of watching) callback({ kind: 'killed', error: closed });
    for (const delivery of served) delivery.cancel();
  }

  #receiveAll(batch: WireMail[]): void {
    this.#counters.received += batch.length;
    for (const mail of batch) this.#receive(mail);
  }

  #receive(mail: WireMail): void {
    switch (mail.t) {
      case 'call':
        this.#serve(mail);
        return;
      case 'cast':
        this.#system.deliver(mail.path, mail.op, mail.request, undefined, this);
        if (++this.#castsTaken >= castsPerReceipt) {
          this.#send({ t: 'castsTaken', count: this.#castsTaken });
          this.#castsTaken = 0;
        }
        return;
      case 'castsTaken':
        this.#castsInFlight -= mail.count;
        return;
      case 'reply':
      case 'fail': {
        const sink = this.#pending.get(mail.id);
        this.#pending.delete(mail.id);
        if (mail.t === 'reply') sink?.reply(mail.value);
        else sink?.fail(fromWire(mail.error));
        return;
      }
      case 'watch': {
        const { id } = mail;
        const unwatch = this.#system.watch(
          mail.path,
          (reason) => {
            this.#served.delete(id);
            this.#send({ t: 'down', id, reason: exitToWire(reason) });
          },
          this,
        );
        this.#served.set(id, { cancel: unwatch });
        return;
      }
      case 'cancel':
      case 'unwatch': {
        const delivery = this.#served.get(mail.id);
        this.#served.delete(mail.id);
        delivery?.cancel();
        return;
      }
      case 'down': {
        const callback = this.#watching.get(mail.id);
        this.#watching.delete(mail.id);
        callback?.(exitFromWire(mail.reason));
        return;
      }
      case 'exit':
        this.#system.exit(mail.path, exitFromWire(mail.reason), this);
        return;
      case 'crashed':
        this.#system.crashedElsewhere(mail.path, fromWire(mail.error));
        return;
    }
  }

  #serve(mail: WireMail & { t: 'call' }): void {
    const { id } = mail;
    let answered = false;
    const sink: ReplySink = {
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
    };
    const delivery = this.#system.deliver(mail.path, mail.op, mail.request, sink, this);
    if (!answered) this.#served.set(id, delivery);
  }

  #send(mail: WireMail, transfer?: readonly ArrayBuffer[]): void {
    if (this.#closed !== undefined) return;
    this.#counters.sent++;
    this.#out.push(mail);
    if (transfer !== undefined) for (const buffer of transfer) this.#transfer.push(buffer);
    if (this.#flushing) return;
    this.#flushing = true;
    // From a microtask, nextTick runs when all of them are through: actors that run in this turn share the batch.
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    const batch = this.#out;
    const transfer = this.#transfer;
    this.#out = [];
    this.#transfer = [];
    if (this.#closed !== undefined) return;
    this.#counters.batches++;
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

  #undeliverable(mail: WireMail, cause: unknown): void {
    const why = new KitError('internal', `a message to ${this.#counters.peer} cannot be sent`, { cause });
    if (mail.t === 'call') {
      const sink = this.#pending.get(mail.id);
      this.#pending.delete(mail.id);
      sink?.fail(why);
    } else if (mail.t === 'reply') {
      this.#port.postMessage([{ t: 'fail', id: mail.id, error: toWire(why) } satisfies WireMail]);
    } else if (mail.t === 'cast') {
      this.#castsInFlight--;
      this.#counters.castsDropped++;
    }
  }
}
